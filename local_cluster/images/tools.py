"""Where uv is: the program that loads packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from local_cluster.layout import Cache


def find_uv() -> Path | None:
    """`$UV` (the bootstrap sets it), PATH, or what an earlier bootstrap put into the cache."""
    installed = sorted(Cache.from_environment().root.glob("uv-*/bin/uv"))
    for candidate in (os.environ.get("UV"), shutil.which("uv"), *installed):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    return None
