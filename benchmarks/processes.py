"""When a container of the local cluster began, from this host's own process table.

A Pod's status has whole seconds only, and half a second matters here.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

PROC = Path("/proc")


def container_start(host_name: str, module: str) -> float:
    """Unix time, to 10 ms, at which PID 1 of a container began: ``python -m module`` in a pod.

    Raises ``ProcessLookupError`` where no such process is left or there yet.
    """
    return process_start(first_process(host_name, module))


def first_process(host_name: str, module: str) -> Path:
    """``/proc/<pid>`` of a container's PID 1. Raises ``ProcessLookupError``."""
    for folder in PROC.glob("[0-9]*"):
        try:
            if _is_first(folder) and _runs(folder, module) and _host_name(folder) == host_name:
                return folder
        except OSError:  # it has just ended
            continue
    raise ProcessLookupError(f"{module} is PID 1 in no container of {host_name}")


def process_start(folder: Path) -> float:
    """When the process of ``/proc/<pid>`` began, as Unix time."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + _ticks(folder)[19] / os.sysconf("SC_CLK_TCK")


def cpu_seconds(folder: Path) -> float:
    """What the process of ``/proc/<pid>`` has computed so far, with the kernel's work for it."""
    user, system = _ticks(folder)[11:13]
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _ticks(folder: Path) -> list[int]:
    """The numbers of ``stat`` from the third on; the state, which is none, counts as 0."""
    # The command name may hold blanks and brackets; the numbers follow its last bracket.
    _state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, numbers)]


def _is_first(folder: Path) -> bool:
    """Whether it is PID 1 of a namespace of its own."""
    for line in (folder / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            pids = line.split()[1:]
            return len(pids) > 1 and pids[-1] == "1"
    return False


def _runs(folder: Path, module: str) -> bool:
    return module.encode() in (folder / "cmdline").read_bytes().split(b"\0")


def _host_name(folder: Path) -> str:
    for entry in (folder / "environ").read_bytes().split(b"\0"):
        if entry.startswith(b"HOSTNAME="):
            return entry.removeprefix(b"HOSTNAME=").decode()
    return ""
