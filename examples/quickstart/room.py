"""Whether the disk holds all that a first run builds: asked before it begins."""

from __future__ import annotations

from pathlib import Path

from local_cluster.layout import free_disk
from quickstart.errors import QuickstartError

FIRST_RUN = 35.0
"""GiB: programs, images with their packages, the caches of both, and the cluster. Measured; it is
most at the end."""


def require(folder: Path) -> None:
    """``folder`` will hold the cache. Raises ``QuickstartError``."""
    free, existing = free_disk(folder)
    gibibytes = free / 2**30
    if gibibytes < FIRST_RUN:
        raise QuickstartError(
            f"A first run takes {FIRST_RUN:.0f} GiB of disk and {existing} has {gibibytes:.1f} GiB "
            "free: free some, or point HOME and FINETUNE_CACHE to a larger disk."
        )
