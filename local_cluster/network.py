"""One network namespace per cluster, without a default route: nothing in it can leave the machine.

kube-proxy's tables, addresses and ports are per namespace, so two clusters never meet, and taking
the network down is deleting the namespace. A veth pair, the door, joins it to the host.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.processes import identify, stop_identities
from local_cluster.subnets import Subnet

BRIDGE = "ftbr0"
NETNS_FOLDER = Path("/var/run/netns")


def netns_name(cluster: str) -> str:
    return f"ftc-{cluster}"


def netns_exists(name: str) -> bool:
    """Whether the namespace is there and usable (a crash can leave a dead name)."""
    path = NETNS_FOLDER / name
    return path.exists() and _quiet("nsenter", f"--net={path}", "true")


class Network:
    """The namespace, links, addresses and routes of one cluster."""

    def __init__(self, cluster: str, subnet: Subnet) -> None:
        self.netns = netns_name(cluster)
        self.subnet = subnet

    def ensure(self, nodes: int) -> bool:
        """Make whatever is missing; True when the namespace itself was made now."""
        subnet, netns = self.subnet, self.netns
        created = not netns_exists(netns)
        if created:
            _quiet("ip", "netns", "del", netns)
            _run("ip", "netns", "add", netns)
        if not _quiet("ip", "-n", netns, "link", "show", BRIDGE):
            # A bridge without ports carries the addresses: some kernels have no dummy links.
            _run("ip", "-n", netns, "link", "add", BRIDGE, "type", "bridge")
        if not _quiet("ip", "link", "show", subnet.link):
            _run("ip", "link", "add", subnet.link, "type", "veth", "peer", "name", "door",
                 "netns", netns)  # fmt: skip
        nodes_and_control = [subnet.control_plane, *(subnet.node(k) for k in range(1, nodes + 1))]
        _batch(
            netns,
            "link set lo up",
            f"link set {BRIDGE} up",
            "link set door up",
            f"addr replace {subnet.door}/30 dev door",
            *(f"addr replace {address}/32 dev {BRIDGE}" for address in nodes_and_control),
            # A route for services must exist before kube-proxy's rules can rewrite a packet.
            f"route replace {subnet.services} dev {BRIDGE}",
        )
        _batch(
            None,
            f"addr replace {subnet.host}/30 dev {subnet.link}",
            f"link set {subnet.link} up",
            # Pods, nodes and services are reachable from the host through the door.
            f"route replace {subnet.block} via {subnet.door} dev {subnet.link}",
        )
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        return created

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command inside the namespace; its output."""
        return _run("nsenter", f"--net={NETNS_FOLDER / self.netns}", "--", *command, stdin=stdin)


def remove_netns(name: str) -> None:
    """Delete a namespace with everything in it, also processes that no pid file knows."""
    if not (NETNS_FOLDER / name).exists():
        return
    if netns_exists(name):
        inside = [int(pid) for pid in _run("ip", "netns", "pids", name).split()]
        stop_identities([found for pid in inside if (found := identify(pid))], grace=0)
    _run("ip", "netns", "del", name)


def _batch(netns: str | None, *lines: str) -> None:
    target = ["-n", netns] if netns else []
    _run("ip", *target, "-batch", "-", stdin="\n".join(lines) + "\n")


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LocalClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
