"""Ranks that are asked to stop, are believed dead, or lose another one."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from unit.trainer.train.jobs import Job
from unit.trainer.train.loops import assembled

from finetune_trainer import gang as gangs
from finetune_trainer import lineage
from finetune_trainer.checkpoint_folder import CheckpointFolder
from finetune_trainer.errors import Preempted
from finetune_trainer.rendezvous import Place


def stop_in(
    place: Place, job: Job, workspace: Path, attempt: int, phase: str, step: int
) -> dict[str, Any]:
    """Train, and ask to stop on the last rank alone in ``phase`` after ``step`` finished steps."""
    loop = assembled(job, place, workspace, attempt)

    class Asked:
        @property
        def agreed(self) -> bool:
            beat = loop.reporter.heartbeat
            return place.rank == place.world_size - 1 and (beat.phase, beat.step) == (phase, step)

    loop.shutdown = Asked()  # type: ignore[assignment]
    try:
        loop.run()
    except Preempted as error:
        return {"message": str(error), "step": loop.state.step}
    return {"message": None, "step": loop.state.step}


def begin(place: Place, job: Job, workspace: Path, attempt: int) -> tuple[int, int] | None:
    """Load what the attempt has to go on from, and end. Returns the parent's attempt and step."""
    assembled(job, place, workspace, attempt)
    parent = json.loads((workspace / f"attempts/{attempt}/parent.json").read_text())
    return (parent["attempt"], parent["step"]) if parent["attempt"] is not None else None


def believed_dead(place: Place, job: Job, workspace: Path, step: int, sight: str) -> dict[str, Any]:
    """Attempt 0: it hears nothing after ``step`` steps until attempt 1 has begun, then goes on.

    ``sight``: "none" where its volume never shows it that, "late" where it does once attempt 1 has
    cleared away what attempt 0 was writing. Brings home why it ended and what it had saved.
    """
    loop = assembled(job, place, workspace, 0)
    trained, publish, successor = loop.train_window, CheckpointFolder.publish, lineage.successor

    def train_window(window: Any, rate: float, *rest: Any) -> Any:
        while window.step == step and not (workspace / "attempts/1/parent.json").exists():
            time.sleep(0.05)
        return trained(window, rate, *rest)

    def cleared(folder: CheckpointFolder, at: int, content: dict[str, Any]) -> None:
        if at > step:
            lineage.successor = successor
            shutil.rmtree(folder.temporary(at))
        publish(folder, at, content)

    loop.train_window = train_window  # type: ignore[method-assign]
    if sight in ("none", "late"):
        lineage.successor = lambda *_: None
    if sight == "late":
        CheckpointFolder.publish = cleared  # type: ignore[method-assign]
    try:
        loop.run()
    except Preempted as error:
        return {"message": str(error), "step": loop.state.step}
    return {"message": None, "step": loop.state.step}


def peer_dies(place: Place, job: Job) -> dict[str, Any]:
    """Rank 1 dies inside a step; the others bring home what they make of it, and how fast."""
    loop = assembled(job, place)
    loop.train_window(loop.windows[0], 0.01)
    loop.gang.barrier()
    began = time.monotonic()
    if place.rank == 1:
        return {}  # the harness ends the process without a word to the others
    try:
        loop.run()
    except Exception as error:
        return {"error": gangs.translated(error), "seconds": time.monotonic() - began}
    return {"error": None}
