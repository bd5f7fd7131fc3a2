"""Nodes: real kubelets on real containerd and runc, several on one machine.

They share the network namespace and the kernel, and nothing else: each has its own address, pod
range, control group, containerd root, kubelet folder and pod log folder (kubelets that share a
log folder delete each other's logs).
"""

from __future__ import annotations

import datetime
import json
import math
import shutil
import socket
from pathlib import Path
from typing import Any

from local_cluster.api import API_PORT, wait_for
from local_cluster.binaries import Binaries
from local_cluster.cgroups import Cgroup
from local_cluster.control_plane import ControlPlane
from local_cluster.debian import CNI_PLUGINS, find_tool
from local_cluster.errors import LocalClusterError
from local_cluster.layout import ClusterPaths, NodePaths, private_dir, write_private
from local_cluster.mounts import unmount_below
from local_cluster.oci import PAUSE_IMAGE
from local_cluster.pki import KeyPair
from local_cluster.processes import ProcessTable
from local_cluster.registry import IMAGE_HOST, REGISTRY_PORT
from local_cluster.subnets import Subnet

_CONTAINERD = """\
version = 3
root = "{root}"
state = "{run}/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
  address = "{socket}"

[plugins.'io.containerd.shim.v1.manager']
  socket_dir = "{run}/s"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause}"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "{etc}/certs.d"

[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE runc may not lower a process's OOM score.
  restrict_oom_score_adj = {restrict_oom_score}
  # Pods' network namespaces below our own folder, where `down` finds them.
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{cni_plugins}"]
    conf_dir = "{cni}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        Root = "{run}/runc"
        SystemdCgroup = false
"""

_CAP_SYS_RESOURCE = 24


class Node:
    """Node number `index` (from 1) of a cluster."""

    def __init__(
        self,
        index: int,
        paths: ClusterPaths,
        subnet: Subnet,
        plane: ControlPlane,
        processes: ProcessTable,
        binaries: Binaries,
        netns: str,
    ) -> None:
        self.index = index
        self.name = f"{paths.name}-n{index}"
        self.address = subnet.node(index)
        self.paths: NodePaths = paths.node(index)
        self.cgroup = Cgroup.of_node(paths.name, index)
        self._cluster_paths = paths
        self._subnet = subnet
        self._plane = plane
        self._processes = processes
        self._binaries = binaries
        self._netns = netns
        self._earlier_report = ""
        """When an earlier kubelet had reported last, as the present one was started."""

    @property
    def containerd(self) -> str:
        """Name of the node's containerd among the cluster's processes."""
        return f"containerd-n{self.index}"

    @property
    def kubelet(self) -> str:
        """Name of the node's kubelet among the cluster's processes."""
        return f"kubelet-n{self.index}"

    def start(self) -> None:
        """Start containerd and the kubelet unless they run."""
        for folder in (self.paths.root, self.paths.run, self.paths.kubelet, self.paths.pod_logs):
            private_dir(folder)
        self.cgroup.create()
        self._start_containerd()
        if self._processes.identity(self.kubelet) is None:
            self._earlier_report = _last_report(self._ready_condition())
        self._start_kubelet()

    def stop(self) -> None:
        """Take the node off: its daemons, its pods, their mounts and network."""
        self._processes.stop(self.kubelet, self.containerd, grace=0)
        self.cgroup.kill()
        unmount_below(self.paths.root)
        unmount_below(self.paths.run)
        # What the dead left there would only mislead their successors.
        shutil.rmtree(self.paths.run, ignore_errors=True)

    def ready(self) -> bool:
        """Whether the present kubelet, not an earlier one, has reported the node as Ready."""
        started = self._processes.started_at(self.kubelet)
        condition = self._ready_condition()
        if started is None or condition.get("status") != "True":
            return False
        return is_of_kubelet(started, _last_report(condition), self._earlier_report)

    def condition(self) -> str:
        """Status of the node's Ready condition: True, False, Unknown, or "" before it is there."""
        return str(self._ready_condition().get("status", ""))

    def _ready_condition(self) -> dict[str, Any]:
        status, body = self._plane.api.call("GET", f"/api/v1/nodes/{self.name}")
        if status != 200:
            return {}
        conditions: list[dict[str, Any]] = json.loads(body).get("status", {}).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == "Ready"), {})

    def _start_containerd(self) -> None:
        runc = find_tool("runc")
        if runc is None:
            raise LocalClusterError("runc is missing: run `python -m local_cluster prepare`.")
        etc = private_dir(self.paths.root / "etc")
        self._write_cni()
        self._write_registry_hosts(etc / "certs.d")
        config = write_private(
            etc / "containerd.toml",
            _CONTAINERD.format(
                root=self.paths.containerd_root,
                run=self.paths.run,
                socket=self.paths.socket,
                etc=etc,
                cni=self.paths.cni,
                cni_plugins=CNI_PLUGINS,
                pause=PAUSE_IMAGE,
                runc=runc,
                restrict_oom_score="false" if has_capability(_CAP_SYS_RESOURCE) else "true",
            ),
        )
        program = self._binaries.path("containerd")
        self._processes.start(
            self.containerd,
            [program, "--config", config],
            netns=self._netns,
            cgroups=self.cgroup.daemons(),
            # containerd looks its shim up on PATH; CNI plugins call sbin programs.
            environment={"PATH": f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def _start_kubelet(self) -> None:
        authority = self._plane.identities.authority
        pair = authority.issue(
            f"kubelet-n{self.index}",
            f"system:node:{self.name}",
            organization="system:nodes",
            hosts=[self.address, self.name],
        )
        # The server at the node's own address: a partition can then cut off just this kubelet.
        kubeconfig = self._plane.write_kubeconfig(
            f"kubelet-n{self.index}", f"https://{self.address}:{API_PORT}", pair
        )
        config = write_private(
            self.paths.root / "etc" / "kubelet.json",
            json.dumps(self._kubelet_configuration(authority.pair.certificate, pair)),
        )
        # The kubelet ends at once when its runtime does not answer.
        wait_for(
            f"containerd of node {self.name} does not answer",
            self._containerd_answers,
            30,
            f"see {self._processes.log(self.containerd)}.",
        )
        self._processes.start(
            self.kubelet,
            [
                self._binaries.path("kubelet"),
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.address}",
                f"--root-dir={self.paths.kubelet}",
                f"--cert-dir={self.paths.kubelet}/pki",
            ],
            netns=self._netns,
            cgroups=self.cgroup.daemons(),
            environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def _kubelet_configuration(self, authority: Path, pair: KeyPair) -> dict[str, Any]:
        """``authority``: certificate of the one that signs clients; ``pair``: the kubelet's own."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.paths.socket}",
            # 1.36 refuses version 1 hosts unless asked; harmless on version 2.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup.path}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "podLogsDir": str(self.paths.pod_logs),
            "resolvConf": "/dev/null",
            "clusterDNS": [self._subnet.control_plane],
            "clusterDomain": "cluster.local",
            "makeIPTablesUtilChains": False,
            # The nodes share one disk: the kubelet must not tidy up for the others.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            # Pulls come from the same machine: two at a time, without a rate.
            "registryPullQPS": 0,
            "serializeImagePulls": False,
            "maxParallelImagePulls": 2,
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
            # Renewed every 2.5 s, see the controller-manager's grace period.
            "nodeLeaseDurationSeconds": 10,
            "nodeStatusUpdateFrequency": "5s",
            # Soon again: a report in the second of an earlier kubelet's last one tells nobody.
            "nodeStatusReportFrequency": "10s",
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
        }

    def _containerd_answers(self) -> bool:
        if self._processes.identity(self.containerd) is None:
            raise self._processes.died(self.containerd)
        return _connects(self.paths.socket)

    def _write_cni(self) -> None:
        network = {
            "cniVersion": "1.0.0",
            "name": f"n{self.index}",
            "plugins": [
                {
                    # One routed link a pod, no bridge between them: every packet passes the
                    # namespace's rules, so services and partitions work for neighbours too.
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self._cluster_paths.ipam),
                        "ranges": [[{"subnet": self._subnet.pods_of(self.index)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        write_private(private_dir(self.paths.cni) / "10-pods.conflist", json.dumps(network))

    def _write_registry_hosts(self, folder: Path) -> None:
        server = f"http://{self.address}:{REGISTRY_PORT}"
        hosts = f'server = "{server}"\n[host."{server}"]\n  capabilities = ["pull", "resolve"]\n'
        write_private(private_dir(folder / IMAGE_HOST) / "hosts.toml", hosts)


def has_capability(bit: int) -> bool:
    """Whether this process effectively holds the Linux capability with that number."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def is_of_kubelet(started: float, report: str, earlier: str) -> bool:
    """Whether a node's report comes from the kubelet that started then, in seconds of the epoch.

    report, earlier: when the node was reported last, and last before the start; RFC 3339, or "".
    Kubernetes writes whole seconds, and a kubelet may report in the one in which it started.
    """
    if report in ("", earlier):
        return False
    return datetime.datetime.fromisoformat(report).timestamp() >= math.floor(started)


def _last_report(condition: dict[str, Any]) -> str:
    return str(condition.get("lastHeartbeatTime") or "")
