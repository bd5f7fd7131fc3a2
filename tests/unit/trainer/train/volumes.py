"""Ranks that save training state or weights, on volumes with space and without."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from unit.trainer.train.jobs import Job
from unit.trainer.train.loops import assembled

from finetune_trainer import shards
from finetune_trainer.rendezvous import Place
from finetune_trainer.weights import save_weights


def fill_up(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Save once with a shard that the last rank cannot write for lack of space."""
    loop = assembled(job, place, workspace)
    written = shards.write
    if place.rank == place.world_size - 1:

        def full(path: Path, *_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        shards.write = full
    try:
        loop.checkpoints.save(loop.engine, 1, {})
    except Exception as error:
        shards.write = written
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def fill_up_at_the_end(place: Place, job: Job, folder: Path) -> dict[str, Any]:
    """Save the final weights on a volume without space, as the library tells of it."""
    loop = assembled(job, place)

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    loop.engine.module.save_pretrained = full
    try:
        save_weights(loop.engine, loop.gang, folder)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def save_often(
    place: Place, job: Job, workspace: Path, steps: list[int], best: int, asynchronous: bool
) -> list[int]:
    """Save at each step, protecting ``best``; returns the steps that are left."""
    loop = assembled(job, place, workspace)
    for step in steps:
        if asynchronous:
            loop.checkpoints.begin(loop.engine, step, {}, protect={best})
            loop.checkpoints.finish()
        else:
            loop.checkpoints.save(loop.engine, step, {}, protect={best})
    return [published.step for published in loop.checkpoints.published]
