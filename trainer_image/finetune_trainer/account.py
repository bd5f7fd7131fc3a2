"""Where the time of an attempt goes: every second of it belongs to one kind of work."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.heartbeat import Phase
from finetune_trainer.lineage import Parent, attempt_folder

Kind = Literal["init", "load", "train", "recompute", "evaluate", "checkpoint", "save", "done"]

_KINDS: dict[Phase, Kind] = {
    "init": "init",
    "load": "load",
    "eval": "evaluate",
    "train": "train",
    "checkpoint": "checkpoint",
    "save": "save",
    "done": "done",
}
_TAIL_BYTES = 16 * 1024
"""So much of metrics.jsonl holds its last whole line."""


class Account:
    """Seconds by kind of work since the container started; they add up to the time that passed.

    A piece of work counts once it is over. So the time of a step that never ended stands nowhere:
    ``at`` and ``doing`` tell whoever reads the account since when it goes on, and with what.
    """

    def __init__(self, started_at: float | None = None) -> None:
        """``started_at``: when the container started, in Unix seconds; None: now."""
        self.at = time.time()
        """When the last piece was over, in Unix seconds."""
        self.doing: Kind = "init"
        self.farthest = 0
        """Optimizer steps done by this attempt or by those before it: up to here, they are done
        again."""
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._turned = time.monotonic()
        if started_at is not None:
            self._seconds["init"] = max(0.0, self.at - started_at)

    def turn_to(self, phase: Phase, step: int) -> None:
        """The piece at hand is over; from now on time goes to ``phase``, with ``step`` steps done.

        The end of a step is the end of a piece, too.
        """
        now = time.monotonic()
        self._seconds[self.doing] += now - self._turned
        self._turned, self.at = now, time.time()
        again = phase == "train" and step < self.farthest
        self.doing = "recompute" if again else _KINDS[phase]
        self.farthest = max(self.farthest, step)

    def content(self) -> dict[str, Any]:
        """As ``/progress`` and the termination message hold it."""
        seconds = {kind: round(count, 3) for kind, count in self._seconds.copy().items()}
        return {"at": round(self.at, 3), "doing": self.doing, "seconds": seconds}


def steps_done_before(workspace: Path, attempt: int, parent: Parent | None) -> int:
    """The farthest step that an attempt from the parent's on has told; 0: none has."""
    first = 0 if parent is None else parent.attempt
    return max(
        (_last_step(attempt_folder(workspace, n) / "metrics.jsonl") for n in range(first, attempt)),
        default=0,
    )


def _last_step(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    steps = [0]
    for line in lines:  # the first and the last may be torn; that of a checkpoint comes late
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
            steps.append(int(json.loads(line)["step"]))
    return max(steps)
