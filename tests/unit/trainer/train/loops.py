"""The training loop of a small job, with all that it asks and tells."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import make_tokenizer
from unit.trainer.train.jobs import Job, built, joined, rows_in, train_rows

from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.judging.datasets import ScoredRows
from finetune_trainer.judging.decode import Decoding
from finetune_trainer.judging.paired import PairedRows
from finetune_trainer.judging.prompts import Prompt
from finetune_trainer.judging.questions import Questions
from finetune_trainer.loop import Loop
from finetune_trainer.metrics import Metrics
from finetune_trainer.progress import Progress
from finetune_trainer.rendezvous import Place
from finetune_trainer.reporter import Reporter
from finetune_trainer.state import TrainState

STOPS = (2, 11, 30, 55)
"""Tokens that end an answer."""


class NeverStop:
    agreed = False


class Recorder(Reporter):
    """Keeps the numbers of every step."""

    def step_done(self, state: Any, numbers: dict[str, Any], **rest: Any) -> None:
        self.__dict__.setdefault("steps", []).append(dict(numbers))
        self.__dict__.setdefault("rows", []).append(rest["window"].rows.tolist())
        super().step_done(state, numbers, **rest)


def assembled(job: Job, place: Place, shared: Path | None = None, attempt: int = 0) -> Loop:
    """A loop over the job's rows in a joined gang, resumed if the workspace holds a checkpoint.

    ``shared`` is the workspace; None: a new one.
    """
    config = job.run_config(place.world_size)
    gang = joined(place)
    workspace: Path = shared or gang.broadcast(Path(tempfile.mkdtemp()))
    scratch = Path(tempfile.mkdtemp())
    folder = workspace / "attempts" / str(attempt)
    checkpoints = Checkpoints(
        workspace,
        attempt,
        gang,
        keep=config.checkpoint.keep,
        identity={},
        suspect=[(each.attempt, each.first_step) for each in config.recovery.passed_over],
        gives_up_oldest=config.checkpoint.on_disk_full == "RemoveOldest",
    )
    parent = checkpoints.choose_parent()
    engine = built(job, config)
    state = TrainState()
    if parent is not None:
        state = TrainState.restored(checkpoints.load(engine, parent))
    return Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows(scratch / "train", job),
        scored_rows=scored_rows(scratch, job),
        checkpoints=checkpoints,
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=recorder(place, folder, attempt),
        state=state,
        questions=questions(job, config, workspace),
        paired_rows=paired_rows(job, config, scratch, workspace),
    )


def paired_rows(job: Job, config: RunConfig, scratch: Path, workspace: Path) -> PairedRows | None:
    if not job.paired_lengths:
        return None
    rows = rows_in(scratch / "paired", 4, job.paired_lengths, job.supervised)
    return PairedRows(config.evaluation.paired_prompts, rows, workspace / "answers")


def scored_rows(scratch: Path, job: Job) -> list[ScoredRows]:
    """The job's held-out rows, and general ones if it has any; sources take turns."""
    seed = 1 if job.same_rows else 2
    wanted: list[tuple[Any, int, Any]] = [("Eval", seed, job.eval_lengths)]
    if job.general_lengths:
        wanted.append(("General", 3, job.general_lengths))
    found = []
    for role, drawn, lengths in wanted:
        rows = rows_in(scratch / role, drawn, lengths, job.supervised)
        sources = np.arange(len(rows)) % 2
        found.append(ScoredRows(role, rows, ("first", "second"), sources))
    return [each for each in found if len(each.rows)]


def questions(job: Job, config: RunConfig, workspace: Path) -> Questions | None:
    """The job's prompts, as text and as they are; the references are all alike."""
    wish = config.evaluation.generation
    if wish is None:
        return None
    tokenizer = make_tokenizer()
    prompts = [
        Prompt(f"row {n}", ({"role": "user", "content": f"prompt {n}"},), tuple(ids), "a b c")
        for n, ids in enumerate(job.prompts)
    ]
    return Questions(wish, prompts, tokenizer, decoding(wish.max_new_tokens), workspace / "answers")


def decoding(max_new_tokens: int, batch_tokens: int = 64) -> Decoding:
    return Decoding(frozenset(STOPS), 0, max_new_tokens, batch_tokens)


def recorder(place: Place, folder: Path, attempt: int = 0) -> Recorder:
    return Recorder(
        rank=place.rank,
        folder=folder,
        metrics=Metrics(rank=place.rank),
        progress=Progress(attempt, folder / "heartbeats", place.world_size),
        heartbeat=Heartbeat(folder / "heartbeats", place.rank),
    )
