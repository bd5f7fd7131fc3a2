"""Signs of life of a rank, written by its training thread.

A side thread would live through a hang; so the loop itself beats, and silence means that it stands
still.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Literal

Phase = Literal["init", "load", "eval", "train", "checkpoint", "save", "done"]

INTERVAL_SECONDS = 1.0


class Heartbeat:
    """Replaces ``rank-<r>.json`` on the volume, at most once a second within a phase."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"rank-{rank}.json"
        self._rank = rank
        self._last = -INTERVAL_SECONDS
        self.phase: Phase = "init"
        self.step = 0
        self.at = time.time()
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)

    def beat(self, phase: Phase, step: int) -> None:
        """Say that the rank is alive. Never raises: a lost volume shows in the age of the file."""
        now = time.monotonic()
        changed = phase != self.phase
        self.phase, self.step, self.at = phase, step, time.time()
        if not changed and now - self._last < INTERVAL_SECONDS:
            return
        self._last = now
        temporary = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self.content()))
            temporary.replace(self._path)

    def content(self) -> dict[str, Any]:
        return {
            "rank": self._rank,
            "phase": self.phase,
            "step": self.step,
            "at": round(self.at, 3),
        }


def read_all(folder: Path, world_size: int) -> list[dict[str, Any]]:
    """The last beat of every rank that has one, by rank."""
    beats = []
    for rank in range(world_size):
        with contextlib.suppress(OSError, ValueError):
            beats.append(json.loads((folder / f"rank-{rank}.json").read_text()))
    return beats
