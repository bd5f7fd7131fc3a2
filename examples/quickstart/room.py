"""Whether the disk holds all that a first run builds: asked before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from quickstart.errors import QuickstartError

FIRST_RUN = 35.0
"""GiB that the quickstart had taken at its end, when it was more than ever before (measured):
programs, images with their packages, the caches of both, the cluster."""


def require(folder: Path) -> None:
    """``folder`` will hold the cache. Raises ``QuickstartError``."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < FIRST_RUN:
        raise QuickstartError(
            f"A first run takes {FIRST_RUN:.0f} GiB of disk and {existing} has {free:.1f} GiB "
            "free: free some, or point HOME and FINETUNE_CACHE to a larger disk."
        )
