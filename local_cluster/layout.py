"""Where everything lies: the cache that survives, and the state of one cluster that does not."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError

DEFAULT_NAME = "finetune"
DEFAULT_HOME = Path("/var/lib/finetune-local-cluster")

# The kernel holds a unix socket's path in 108 bytes, the last of them a zero.
MAX_SOCKET_PATH = 107

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


def private_dir(path: Path) -> Path:
    """Create `path` with mode 0700 (parents as they come) and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: str | bytes) -> Path:
    """Write a file of mode 0600 in one step: readers see the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
    return path


def free_disk(path: Path) -> tuple[int, Path]:
    """Free bytes of the disk that holds `path` or will, and the nearest folder that is there."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free, existing


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock on `path`; the kernel drops it with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Cache:
    """What may be kept between clusters: binaries, packages, registry storage, the seed."""

    root: Path

    @classmethod
    def from_environment(cls) -> Cache:
        """`$FINETUNE_CACHE`, else `~/.cache/finetune-operator`."""
        named = os.environ.get("FINETUNE_CACHE")
        if named:
            return cls(Path(named).absolute())
        home = os.environ.get("HOME") or "/root"
        return cls(Path(home) / ".cache" / "finetune-operator")

    @property
    def binaries(self) -> Path:
        return self.root / "bin"

    @property
    def debian(self) -> Path:
        return self.root / "debian"

    @property
    def toolchain(self) -> Path:
        return self.root / "go-toolchain"

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def seed(self) -> Path:
        return self.root / "seed"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / name


def cluster_home() -> Path:
    """`$LOCAL_CLUSTER_HOME`, else /var/lib/finetune-local-cluster."""
    return Path(os.environ.get("LOCAL_CLUSTER_HOME") or DEFAULT_HOME).absolute()


@dataclass(frozen=True)
class NodePaths:
    """One node's folders: `root` lasts, `run` is gone with a restart of the machine."""

    root: Path
    run: Path

    @property
    def containerd_root(self) -> Path:
        return self.root / "root"

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def cni(self) -> Path:
        return self.root / "cni"

    @property
    def kubelet(self) -> Path:
        return self.root / "kubelet"

    @property
    def pod_logs(self) -> Path:
        return self.root / "logs"

    @property
    def fault(self) -> Path:
        return self.root / "fault"


@dataclass(frozen=True)
class ClusterPaths:
    """The state of one cluster; `down` deletes `root` with everything in it."""

    home: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LocalClusterError(
                f"'{self.name}' cannot name a cluster: use 1 to 20 lower-case letters, digits and "
                "dashes, beginning with a letter and ending with a letter or digit."
            )

    @property
    def root(self) -> Path:
        return self.home / self.name

    @property
    def state(self) -> Path:
        return self.root / "cluster.json"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.log"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def ipam(self) -> Path:
        return self.root / "ipam"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def volatile(self) -> Path:
        """Sockets, namespaces and mounts. Short, for the sake of the sockets in it."""
        return Path(f"/run/ftc-{self.name}")

    @property
    def lock(self) -> Path:
        return self.home / ".locks" / self.name

    def node(self, index: int) -> NodePaths:
        """Node `index`, counted from 1."""
        return NodePaths(self.root / "nodes" / f"n{index}", self.volatile / f"n{index}")

    def longest_socket(self) -> Path:
        """The longest socket path that a node of this cluster makes."""
        return self.node(99).kubelet / "pod-resources" / "kubelet.sock"
