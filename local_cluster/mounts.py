"""Mounts below a folder: found in the kernel's own list and taken off, the deepest first."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mounts_below(folder: Path, mountinfo: str | None = None) -> list[Path]:
    """Mount points at or below `folder`, the latest mounted first."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found = []
    for line in text.splitlines():
        # Blanks and backslashes stand as octal escapes: \040.
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
        if point == str(folder) or point.startswith(f"{folder}/"):
            found.append(Path(point))
    return found[::-1]


def unmount_below(folder: Path) -> int:
    """Detach every mount at or below `folder`; how many there were."""
    count = 0
    for _ in range(3):  # a mount on a mount shows up once the upper one is off
        points = mounts_below(folder)
        for point in points:
            if _libc.umount2(os.fsencode(point), _MNT_DETACH) == 0:
                count += 1
        if not points:
            break
    return count
