"""Ranks that train on numbers that are not finite, and bring home what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unit.trainer.train.jobs import Job
from unit.trainer.train.loops import assembled
from unit.trainer.train.stretches import pieces

from finetune_trainer.rendezvous import Place


def poison(place: Place, job: Job) -> dict[str, Any]:
    """One good step, one with an infinite gradient on the last rank, one good step again."""
    loop = assembled(job, place)
    parameter = next(p for p in loop.engine.module.parameters() if p.requires_grad)
    poisoned = [False]
    if place.rank == place.world_size - 1:
        parameter.register_hook(lambda g: g + float("inf") if poisoned[0] else g)
    outcomes, masters = [], []
    for step, bad in enumerate((False, True, False)):
        poisoned[0] = bad
        _, outcome = loop.train_window(loop.windows[step], 0.01)
        assert outcome is not None
        outcomes.append(outcome.applied)
        masters.append(pieces(loop.engine, "master"))
    return {"outcomes": outcomes, **{f"masters{n}": found for n, found in enumerate(masters)}}


def one_bad_step(place: Place, job: Job) -> dict[str, Any]:
    """Train on the windows of the first two steps. Brings home what became of them."""
    loop = assembled(job, place)
    told, masters = [], [pieces(loop.engine, "master")]
    for step in (0, 1):
        mine, outcome = loop.train_window(loop.windows[step], 0.01)
        assert outcome is not None
        told.append((outcome.applied, outcome.grad_norm, mine))
        masters.append(pieces(loop.engine, "master"))
    return {"told": told, **{f"masters{n}": found for n, found in enumerate(masters)}}


def diverge(
    place: Place, job: Job, workspace: Path | None = None, attempt: int = 0
) -> dict[str, Any]:
    """Train until the loop itself gives up. Brings home the error and the last lines told."""
    loop = assembled(job, place, workspace, attempt)
    try:
        loop.run()
    except Exception as error:
        lines = loop.reporter.lines
        return {
            "error": type(error).__name__,
            "message": str(error),
            "hint": getattr(error, "hint", None),
            "beat": loop.reporter.heartbeat.step,
            "state": loop.state.content(),
            "lines": lines.read_text().splitlines() if lines.exists() else [],
        }
    return {"error": None, "state": loop.state.content()}
