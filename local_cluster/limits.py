"""The kernel's limit on inotify instances, which kubelets use up first.

Many hosts allow a user 128, which three clusters of three nodes exceed; the kubelet that comes
last then dies of "too many open files".
"""

from __future__ import annotations

from pathlib import Path

from local_cluster.errors import LocalClusterError

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
WANTED = 1024

# Counted on running clusters: API server 6, controller-manager 5, kube-proxy 1; kubelet 6,
# containerd 2.
_BASE, _NODE = 12, 8


def ensure_inotify_instances(nodes: int, limit: Path = LIMIT) -> None:
    """Raise the limit until the next restart of the machine; refuse where it must not and is low.

    Nothing else of the host's settings is touched by a local cluster.
    """
    present = int(limit.read_text())
    if present >= WANTED:
        return
    try:
        limit.write_text(str(WANTED))
    except OSError as error:
        needed = _BASE + _NODE * nodes
        if present - used_instances() < needed:
            raise LocalClusterError(
                f"{nodes} nodes need {needed} inotify instances more than the limit of {present} "
                f"leaves: run `sysctl fs.inotify.max_user_instances={WANTED}` on the host."
            ) from error


def used_instances(proc: Path = Path("/proc")) -> int:
    """How many inotify instances all processes hold."""
    count = 0
    for folder in proc.glob("[0-9]*/fd"):
        try:
            count += sum("inotify" in str(link.readlink()) for link in folder.iterdir())
        except OSError:  # it ended while we looked
            continue
    return count
