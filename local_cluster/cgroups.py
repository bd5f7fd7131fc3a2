"""Control groups of a cluster's nodes, on version 1 and version 2 hosts.

Each node has a group of its own: kubelets that share a root delete each other's pods. Beside the
kubelet's `kubepods` it holds `daemons` with the node's containerd, shims and kubelet, so that a
node can die as a machine does: all processes at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.processes import reap

ROOT = "finetune-local-cluster"
_ROOT = Path("/sys/fs/cgroup")


def hierarchies(mountinfo: str | None = None) -> tuple[list[Path], bool]:
    """Mount points of the cgroup hierarchies, and whether it is version 2 (then just one).

    What is mounted at /sys/fs/cgroup decides, as it does for runc and the kubelet: a hybrid host
    has its controllers in version 1, and a version 2 host may have a stray version 1 mount.
    """
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    first: dict[str, Path] = {}
    second: list[Path] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mount_point = Path(left.split()[4])
        kind, _, options = right.split()[:3]
        if kind == "cgroup":
            first.setdefault(options, mount_point)
        elif kind == "cgroup2":
            second.append(mount_point)
    if _ROOT in second or not first:
        return second[:1], True
    return list(first.values()), False


class Cgroup:
    """One group in all hierarchies, named by its path below their roots."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._roots, self._unified = hierarchies()

    @classmethod
    def of_cluster(cls, cluster: str) -> Cgroup:
        return cls(f"{ROOT}/{cluster}")

    @classmethod
    def of_node(cls, cluster: str, node: int) -> Cgroup:
        return cls(f"{ROOT}/{cluster}/n{node}")

    def create(self) -> None:
        """Create the group with all its parents, ready for the kubelet as `cgroupRoot`."""
        for root in self._roots:
            folder = root
            for part in Path(self.path).parts:
                if self._unified:
                    _enable_controllers(folder)
                parent, folder = folder, folder / part
                folder.mkdir(exist_ok=True)
                if not self._unified:
                    _copy_cpuset(parent, folder)
            if self._unified:
                _enable_controllers(folder)

    def daemons(self) -> list[Path]:
        """Folders that a node's daemons join; made on demand."""
        folders = []
        for root in self._roots:
            # On version 1 two controllers are enough: one to find them, one to count memory.
            if not self._unified and root.name not in ("memory", "pids"):
                continue
            folder = root / self.path / "daemons"
            folder.mkdir(parents=True, exist_ok=True)
            folders.append(folder)
        return folders

    def processes(self) -> set[int]:
        """Every process in the group and below it."""
        found: set[int] = set()
        for root in self._roots:
            for folder, _, files in os.walk(root / self.path):
                if "cgroup.procs" in files:
                    try:
                        found.update(map(int, (Path(folder) / "cgroup.procs").read_text().split()))
                    except OSError:  # the group went away, or a threaded one refuses to tell
                        continue
        return found

    def kill(self) -> None:
        """SIGKILL everything in the group; returns when it is empty."""
        deadline = time.monotonic() + 20
        while left := self.processes():
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                reap(pid)
            if time.monotonic() > deadline:
                raise LocalClusterError(
                    f"Processes {sorted(left)} survive SIGKILL (they hang in the kernel): restart "
                    "the machine."
                )
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the group and all below it; it must be empty of processes."""
        for root in self._roots:
            for folder, _, _ in os.walk(root / self.path, topdown=False):
                _rmdir(Path(folder))
            with contextlib.suppress(OSError):  # other clusters still live there
                (root / ROOT).rmdir()


def _rmdir(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy for a moment after its last process died
            time.sleep(0.02)
        else:
            return
    raise LocalClusterError(f"The control group {folder} cannot be removed: it is still in use.")


def _enable_controllers(folder: Path) -> None:
    available = (folder / "cgroup.controllers").read_text().split()
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    wanted = [f"+{name}" for name in available if name not in enabled]
    if not wanted:
        return
    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))
    except OSError as error:
        raise LocalClusterError(
            f"Controllers cannot be switched on in {folder} ({error.strerror}): its own processes "
            "must move to a child group first, as in a container started with a cgroup namespace."
        ) from error


def _copy_cpuset(parent: Path, folder: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (folder / name).exists() and not (folder / name).read_text().strip():
            (folder / name).write_text((parent / name).read_text())
