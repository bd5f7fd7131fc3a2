"""Where the time of an attempt went: what the trainer tells is what the operator reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune_operator.policies.goodput import WORK
from finetune_operator.reports import read_last_words, read_progress
from finetune_trainer import account as accounts
from finetune_trainer import outcome
from finetune_trainer.account import Account, Kind, steps_done_before
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import StageError
from finetune_trainer.lineage import Parent
from finetune_trainer.rank import Rank
from finetune_trainer.rendezvous import Place
from finetune_trainer.reporter import Reporter

START = 1_795_400_000.0


class Clock:
    """Stands still between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return START + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(accounts, "time", clock)
    return clock


@pytest.fixture
def rank(tmp_path: Path, clock: Clock) -> Rank:
    return Rank(
        config=RunConfig.model_construct(),
        place=Place(rank=0, world_size=2, local_rank=0, master_addr="x", master_port=1),
        attempt=1,
        workspace=tmp_path,
        record=tmp_path / "record.json",
        env={"FINETUNE_STARTED_AT": str(START - 2)},
    )


def reporter_of(rank: Rank) -> Reporter:
    return Reporter(
        rank=rank.place.rank,
        folder=rank.folder,
        metrics=rank.metrics,
        progress=rank.progress,
        heartbeat=rank.heartbeat,
        account=rank.account,
    )


def test_the_operator_knows_every_kind_of_work() -> None:
    assert set(get_args(Kind)) == set(WORK)


def test_progress_and_last_words_carry_it(rank: Rank, clock: Clock) -> None:
    reporter = reporter_of(rank)
    for second, phase in ((3, "load"), (8, "train"), (20, "checkpoint"), (21, "train")):
        clock.now = second
        reporter.phase(phase, step=4)  # type: ignore[arg-type]
    clock.now = 30
    report = read_progress(rank.progress.render())
    words = read_last_words(outcome.encode(rank._failed(StageError("x"))).decode())
    assert report is not None and words is not None
    assert report.account == words.account is not None
    assert (report.account.at, report.account.doing) == (START + 21, "train")
    assert report.account.seconds == {"init": 5, "load": 5, "train": 12, "checkpoint": 1}


@pytest.mark.parametrize("account", [7, {"at": -1}, {"at": 1, "seconds": {"x": "y"}}, {}])
def test_an_account_that_makes_no_sense_spoils_nothing_else(account: Any) -> None:
    body = {"attempt": 0, "updatedAt": 1, "step": 3, "account": account}
    report = read_progress(json.dumps(body).encode())
    assert report is not None and (report.step, report.account) == (3, None)


def test_steps_that_were_done_before_are_told_apart(clock: Clock) -> None:
    account = Account()
    account.farthest = 12
    account.turn_to("train", 10)
    for step, took in ((11, 1.0), (12, 1.5), (13, 4.0)):
        clock.now += took
        account.turn_to("train", step)
    assert account.content()["seconds"] == {"init": 0, "recompute": 2.5, "train": 4}


def test_going_back_within_an_attempt_does_steps_again_too(clock: Clock) -> None:
    account = Account()
    account.turn_to("train", 0)
    for step in (1, 2, 3):
        clock.now += 1
        account.turn_to("train", step)
    for phase, step in (("load", 1), ("train", 1), ("train", 2), ("train", 3), ("train", 4)):
        clock.now += 1
        account.turn_to(phase, step)  # type: ignore[arg-type]
    seconds = account.content()["seconds"]
    # The step that was at hand when it went back is the fourth second of training.
    assert seconds == {"init": 0, "train": 5, "load": 1, "recompute": 2}


@pytest.mark.parametrize(
    ("parent", "farthest"),
    [(None, 30), (Parent(0, 10, "0", Path("x")), 30), (Parent(2, 20, "0", Path("x")), 27)],
)
def test_the_farthest_step_of_the_attempts_before(
    tmp_path: Path, parent: Any, farthest: int
) -> None:
    written = {
        0: '{"step": 29, "loss": 1}\n{"step": 30, "loss": 1}\n{"step": 3',
        2: '{"step": 27}\n{"step": 20, "checkpointBytes": 1}\n{"step": 1e999}\n[]\n',
        5: '{"step": 99}\n',
    }
    for attempt, lines in written.items():
        (tmp_path / f"attempts/{attempt}").mkdir(parents=True)
        (tmp_path / f"attempts/{attempt}/metrics.jsonl").write_text(lines)
    assert steps_done_before(tmp_path, 5, parent) == farthest
