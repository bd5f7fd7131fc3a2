"""What must hold before anything is started: an ordered list of named checks.

Each looks at facts and answers with one sentence that says what is wrong and what to do, or None.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.debian import find_tool, missing_packages
from local_cluster.errors import LocalClusterError
from local_cluster.layout import MAX_SOCKET_PATH, ClusterPaths, free_disk
from local_cluster.subnets import MAX_NODES

ROOT_NEEDED = (
    "A local cluster needs root (namespaces, mounts, control groups): run the command with sudo."
)

# Numbers from linux/capability.h.
CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}

# A control plane and what the first nodes take; then each further node (kubelet, containerd).
MEMORY_BASE = 1_000 * 2**20
MEMORY_NODE = 200 * 2**20
DISK = 2 * 2**30


@dataclass(frozen=True)
class Facts:
    """What the checks look at; sizes in bytes."""

    user: int
    capabilities: int
    missing_packages: tuple[str, ...]
    missing_families: tuple[str, ...]
    disk_free: int
    disk_path: str
    memory_available: int
    memory_needed: int
    nodes: int
    gpus: int
    longest_socket: str
    namespaces: bool


Check = Callable[[Facts], str | None]


def is_root(facts: Facts) -> str | None:
    if facts.user == 0:
        return None
    return ROOT_NEEDED


def has_capabilities(facts: Facts) -> str | None:
    missing = [name for name, bit in CAPABILITIES.items() if not facts.capabilities >> bit & 1]
    if not missing:
        return None
    return (
        f"This process lacks {', '.join(missing)}: start it with them (for a container: "
        "--privileged)."
    )


def has_namespaces(facts: Facts) -> str | None:
    if facts.namespaces:
        return None
    return "This kernel has no network namespaces or overlayfs: use another machine."


def node_count_fits(facts: Facts) -> str | None:
    if 1 <= facts.nodes <= MAX_NODES and facts.gpus >= 0:
        return None
    return f"--nodes must be 1 to {MAX_NODES} and --gpus at least 0."


def paths_fit(facts: Facts) -> str | None:
    length = len(facts.longest_socket)
    if length <= MAX_SOCKET_PATH:
        return None
    return (
        f"{facts.longest_socket} has {length} characters and a unix socket at most "
        f"{MAX_SOCKET_PATH}: set LOCAL_CLUSTER_HOME to a shorter path."
    )


def has_packages(facts: Facts) -> str | None:
    if not facts.missing_packages:
        return None
    names = " ".join(facts.missing_packages)
    return (
        f"Programs of the packages {names} are missing: run "
        f"`python -m local_cluster prepare` (or apt-get install {names})."
    )


def has_binaries(facts: Facts) -> str | None:
    if not facts.missing_families:
        return None
    names = " ".join(facts.missing_families)
    return f"The programs of {names} are not built yet: run `python -m local_cluster build`."


def has_disk(facts: Facts) -> str | None:
    if facts.disk_free >= DISK:
        return None
    return (
        f"{facts.disk_path} has {facts.disk_free / 2**30:.1f} GiB free and a cluster needs "
        f"{DISK / 2**30:.0f} GiB: free some, or set LOCAL_CLUSTER_HOME to another disk."
    )


def has_memory(facts: Facts) -> str | None:
    if facts.memory_available >= facts.memory_needed:
        return None
    return (
        f"{facts.memory_available / 2**30:.1f} GiB of memory are available and the cluster needs "
        f"{facts.memory_needed / 2**30:.1f} GiB: stop something, or take fewer --nodes."
    )


CHECKS: tuple[tuple[str, Check], ...] = (
    ("root", is_root),
    ("capabilities", has_capabilities),
    ("kernel", has_namespaces),
    ("nodes", node_count_fits),
    ("paths", paths_fit),
    ("packages", has_packages),
    ("binaries", has_binaries),
    ("disk", has_disk),
    ("memory", has_memory),
)


def first_objection(facts: Facts) -> str | None:
    """The sentence of the first check that fails; None when a cluster can start."""
    return next((said for _, check in CHECKS if (said := check(facts)) is not None), None)


def require(facts: Facts) -> None:
    """Raise the first objection."""
    objection = first_objection(facts)
    if objection is not None:
        raise LocalClusterError(objection)


def gather(
    paths: ClusterPaths,
    nodes: int,
    gpus: int,
    missing_families: Sequence[str],
    running: Collection[str] = (),
) -> Facts:
    """Read the facts off this host. running: the cluster's processes that need no more memory."""
    missing_nodes = sum(f"kubelet-n{index}" not in running for index in range(1, nodes + 1))
    base = 0 if "kube-apiserver" in running else MEMORY_BASE
    free, existing = free_disk(paths.root)
    return Facts(
        user=os.geteuid(),
        capabilities=_effective_capabilities(),
        missing_packages=tuple(missing_packages()),
        missing_families=tuple(missing_families),
        disk_free=free,
        disk_path=str(existing),
        memory_available=_memory_available(),
        memory_needed=base + missing_nodes * MEMORY_NODE,
        nodes=nodes,
        gpus=gpus,
        longest_socket=str(paths.longest_socket()),
        namespaces=Path("/proc/self/ns/net").exists() and _has_overlayfs(),
    )


def _has_overlayfs() -> bool:
    known = Path("/proc/filesystems")
    if "\toverlay\n" not in known.read_text() and (modprobe := find_tool("modprobe")):
        subprocess.run([modprobe, "overlay"], capture_output=True, check=False)
    return "\toverlay\n" in known.read_text()


def _effective_capabilities() -> int:
    text = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff:")
    )


def _memory_available() -> int:
    text = Path("/proc/meminfo").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")
    )
