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

from finetune_trainer.patience import Patience

Phase = Literal["init", "load", "eval", "train", "checkpoint", "save", "done"]

INTERVAL_SECONDS = 1.0
MEETING_STEPS = 64
"""So often what the ranks say of times is set right: clocks also run at different speeds."""


class Heartbeat:
    """Replaces ``rank-<r>.json`` on the volume, at most once a second within a phase.

    The launcher gets the same in ``beside``, on the pod's own disk, with how long it may be
    patient.
    """

    def __init__(
        self, folder: Path, rank: int, beside: Path | None = None, patience: Patience | None = None
    ) -> None:
        self._path = folder / f"rank-{rank}.json"
        self._beside = beside
        self._rank = rank
        self.patience = patience
        self._last = -INTERVAL_SECONDS
        self.phase: Phase = "init"
        self.step = 0
        self.at = time.time()
        self._met: int | None = None
        self._met_at = 0.0
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
        if self._beside is not None and self.patience is not None:
            # First: the volume may keep this thread waiting, and that is what patience is about.
            _replace(self._beside, {**self.content(), "patience": self.patience.of(phase)})
        _replace(self._path, self.content())

    def met(self, step: int) -> None:
        """All ranks have just ended ``step`` together, at 0 the rendezvous.

        What each counts from here can be compared, whatever the clocks of their nodes say. It is
        written at once, so that a rank that does not say it has not come here.
        """
        self._met, self._met_at = step, time.monotonic()
        self._last = -INTERVAL_SECONDS
        self.beat(self.phase, step)

    def content(self) -> dict[str, Any]:
        meeting: dict[str, Any] = {}
        if self._met is not None:
            meeting = {"met": self._met, "since": round(time.monotonic() - self._met_at, 3)}
        return {
            "rank": self._rank,
            "phase": self.phase,
            "step": self.step,
            "at": round(self.at, 3),
            **meeting,
        }


def _replace(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(content))
        temporary.replace(path)


def read_all(folder: Path, world_size: int) -> list[dict[str, Any]]:
    """The last beat of every rank that has one, by rank."""
    beats = []
    for rank in range(world_size):
        with contextlib.suppress(OSError, ValueError):
            beats.append(json.loads((folder / f"rank-{rank}.json").read_text()))
    return beats
