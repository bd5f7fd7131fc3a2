"""Saves that nobody asked for: by the clock, at little cost, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.workers import train

from finetune_trainer.config import Checkpoint
from finetune_trainer.interval import Interval
from finetune_trainer.lineage import newest_verified


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_over_so_long_after_the_start_and_after_each_save() -> None:
    clock = Clock()
    interval = Interval(1800, clock)
    clock.now += 1799.9
    assert not interval.over
    clock.now += 0.1
    assert interval.over
    interval.saved(90)
    clock.now += 1799
    assert not interval.over
    clock.now += 1
    assert interval.over


def test_slow_saves_are_rarer_and_after_a_full_volume_there_are_none() -> None:
    clock = Clock()
    interval = Interval(1800, clock)
    interval.saved(120)
    clock.now += 2399
    assert not interval.over, "120 s are one part in twenty of 2400 s"
    clock.now += 1
    assert interval.over
    interval.stop()
    interval.saved(1)
    clock.now += 1e6
    assert not interval.over


def test_who_says_after_how_many_steps_is_not_asked_by_the_clock() -> None:
    assert Checkpoint(everySteps=5).seconds is None
    assert Checkpoint().seconds == 1800
    clock = Clock()
    never = Interval(None, clock)
    clock.now += 1e6
    assert not never.over


def job(**checkpoint: Any) -> Job:
    return Job(
        lengths=row_lengths(1, 11),
        model={"attention_dropout": 0.1},
        config={
            "zeroStage": 2,
            "method": {},
            "training": {"steps": 6, "accumulation": 2},
            "checkpoint": checkpoint,
        },
    )


@pytest.mark.gang
def test_a_gang_saves_by_the_clock_of_rank_0_and_goes_on_from_there(tmp_path: Path) -> None:
    straight = run_gang(train, 2, job(), tmp_path / "straight")
    assert newest_verified(tmp_path / "straight", 1) is None, "a short job saves nothing"
    saving = run_gang(train, 2, job(everySeconds=0), tmp_path / "saving")
    assert saving[0]["steps"] == straight[0]["steps"]
    parent = newest_verified(tmp_path / "saving", 1)
    assert parent is not None and 1 <= parent.step < 6
    resumed = run_gang(train, 2, job(), tmp_path / "saving", 1)
    assert resumed[0]["steps"] == straight[0]["steps"][parent.step :]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
