"""What the kernel says about this container: CPUs that it may use, processes it lost to memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

CPU_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),  # version 2: both numbers in one file
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def available_cpus(quotas: Sequence[Sequence[str]] = CPU_QUOTAS) -> int:
    """CPUs that this container may use: its cgroup quota, rounded up, or all that it sees."""
    seen = len(os.sched_getaffinity(0))
    for files in quotas:
        try:
            quota, period = " ".join(Path(file).read_text() for file in files).split()
            if quota in ("max", "-1"):
                return seen
            return min(seen, max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError):
            continue
    return seen


OOM_KILLS = (
    Path("/sys/fs/cgroup/memory.events"),  # version 2
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def oom_kills(files: Sequence[Path] = OOM_KILLS) -> int:
    """How many processes of this container the kernel has killed for its memory limit."""
    for file in files:
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
            if found:
                return int(found[1])
    return 0
