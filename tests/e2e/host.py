"""Processes of pods, seen from the host that all nodes run on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostProcess:
    pid: int
    command: bytes
    environment: frozenset[bytes]
    """``NAME=value``"""


def processes_of(pods: Collection[str]) -> Iterator[HostProcess]:
    """The processes of the pods with these UIDs."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            cgroup = (folder / "cgroup").read_text()
            if any(uid in cgroup or uid.replace("-", "_") in cgroup for uid in pods):
                yield HostProcess(
                    pid=int(folder.name),
                    command=(folder / "cmdline").read_bytes(),
                    environment=frozenset((folder / "environ").read_bytes().split(b"\0")),
                )
        except OSError:  # it has ended
            continue
