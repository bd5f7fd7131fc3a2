"""Where an attempt began: what the trainer tells is what the operator reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.reports import ResumedReport, read_last_words, read_progress
from finetune_trainer import outcome
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import StageError
from finetune_trainer.lineage import Parent
from finetune_trainer.rank import Rank
from finetune_trainer.rendezvous import Place
from finetune_trainer.reporter import Reporter

STARTS = [
    pytest.param(Parent(0, 40, "0", Path("x")), ResumedReport(attempt=0, step=40), id="resumed"),
    pytest.param(
        Parent(0, 40, "0", Path("x"), ("step 50 of attempt 0: rank-1.safetensors is missing",)),
        ResumedReport(
            attempt=0, step=40, damaged=("step 50 of attempt 0: rank-1.safetensors is missing",)
        ),
        id="a newer one is damaged",
    ),
    pytest.param(None, ResumedReport(step=0), id="begun anew"),
]


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(
        config=RunConfig.model_construct(),
        place=Place(rank=1, world_size=2, local_rank=1, master_addr="x", master_port=1),
        attempt=1,
        workspace=tmp_path,
        record=tmp_path / "record.json",
        env={},
    )


def resumed(rank: Rank, parent: Parent | None) -> Rank:
    reporter = Reporter(
        rank=rank.place.rank,
        folder=rank.folder,
        metrics=rank.metrics,
        progress=rank.progress,
        heartbeat=rank.heartbeat,
    )
    reporter.resumed(parent)
    return rank


@pytest.mark.parametrize(("parent", "told"), STARTS)
def test_progress_says_it(rank: Rank, parent: Any, told: ResumedReport) -> None:
    report = read_progress(resumed(rank, parent).progress.render())
    assert report is not None
    assert (report.attempt, report.resumed_from, report.step) == (1, told, told.step)


@pytest.mark.parametrize(("parent", "told"), STARTS)
def test_the_last_words_of_a_rank_that_fails_say_it(
    rank: Rank, parent: Any, told: ResumedReport
) -> None:
    """An attempt may end before it was ever asked for its progress."""
    failed = resumed(rank, parent)._failed(StageError("so it is"))
    words = read_last_words(outcome.encode(failed).decode())
    assert words is not None and words.resumed_from == told


def test_a_rank_that_fails_before_it_knows_says_nothing(rank: Rank) -> None:
    failed = rank._failed(StageError("so it is"))
    assert "resumedFrom" not in json.loads(outcome.encode(failed))
