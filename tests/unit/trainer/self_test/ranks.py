"""What ranks of a test gang do around the self-test; one gang builds many engines in turn."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from unit.trainer.train.jobs import Job, built, joined, train_rows
from unit.trainer.train.loops import NeverStop, recorder
from unit.trainer.train.stretches import pieces

from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.errors import SelfTestFailed
from finetune_trainer.gang import Gang
from finetune_trainer.loop import Loop
from finetune_trainer.rendezvous import Place
from finetune_trainer.self_test import self_test
from finetune_trainer.state import TrainState

STEPS = 2
Spoil = Callable[[Any], None]


def loop_of(job: Job, gang: Gang, spoil: Spoil | None = None) -> tuple[Loop, Path]:
    """A loop over the job's rows, and the folder that a self-test takes for its workspace."""
    config = job.run_config(gang.place.world_size)
    workspace: Path = gang.broadcast(Path(tempfile.mkdtemp()))
    engine = built(job, config)
    if spoil is not None:
        spoil(engine.module)
    loop = Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows(Path(tempfile.mkdtemp()) / "train", job),
        scored_rows=(),
        checkpoints=Checkpoints(workspace, 0, gang, keep=1, identity={}),
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=recorder(gang.place, workspace / "attempts" / "0"),
        state=TrainState(),
    )
    return loop, workspace


def tested(loop: Loop, workspace: Path) -> dict[str, Any]:
    """Run the self-test. What it raised or wrote, and what it left changed."""
    engine, random = loop.engine, torch.get_rng_state()
    before = pieces(engine, "master")
    began = time.monotonic()
    found: dict[str, Any] = {"error": None}
    try:
        self_test(
            engine,
            loop.gang,
            loop.train_rows,
            loop.reporter,
            workspace=workspace,
            isolated=loop.config.data.packing == "Isolated",
            step=0,
        )
    except SelfTestFailed as error:
        found |= {"error": error.message, "hint": error.hint, "code": error.failure.exit_code}
    loop.gang.barrier()  # rank 0 has written
    lines = loop.reporter.lines
    return found | {
        "seconds": time.monotonic() - began,
        "random_untouched": torch.equal(random, torch.get_rng_state()),
        "weights_untouched": same(before, pieces(engine, "master")),
        "no_gradient": all(p.grad is None for p in engine.module.parameters()),
        "training": engine.module.training,
        "beat": loop.reporter.heartbeat.phase,
        "lines": [json.loads(line) for line in lines.open()] if lines.exists() else [],
    }


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(values, other[name][start])
        for name, stretches in one.items()
        for start, values in stretches.items()
    )


def steps_of(loop: Loop) -> list[Any]:
    loop.engine.train()
    told = [loop.train_window(loop.windows[step], 0.01) for step in range(STEPS)]
    return [(loss, outcome and outcome.grad_norm) for loss, outcome in told]


def with_and_without(place: Place, jobs: dict[str, Job]) -> dict[str, Any]:
    """Every job twice: as it is, and behind a self-test."""
    gang = joined(place)
    told = {}
    for name, job in jobs.items():
        plain, _ = loop_of(job, gang)
        expected = steps_of(plain)
        checked, workspace = loop_of(job, gang)
        found = tested(checked, workspace)
        told[name] = found | {
            "steps_equal": steps_of(checked) == expected,
            "weights_equal": same(pieces(plain.engine, "master"), pieces(checked.engine, "master")),
        }
    return told


def spoiled(place: Place, cases: dict[str, tuple[Job, Spoil | None]]) -> dict[str, Any]:
    """Every job with a model that has been made wrong."""
    gang = joined(place)
    return {name: tested(*loop_of(job, gang, spoil)) for name, (job, spoil) in cases.items()}
