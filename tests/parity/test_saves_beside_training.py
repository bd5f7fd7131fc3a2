"""Checkpoints that are written while training goes on, in real gangs."""

from __future__ import annotations

import errno
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.saves import (
    SLOW_SECONDS,
    STATES,
    change_meanwhile,
    die,
    fail,
    save_slowly,
    stop_meanwhile,
    tell_meanwhile,
)
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.workers import train

from finetune_trainer import manifest
from finetune_trainer.lineage import newest_verified

STEPS = 11
CHECKPOINTS = "attempts/0/checkpoints"


def job(stage: int, **checkpoint: Any) -> Job:
    """Full fine-tuning with dropout; a checkpoint after steps 4 and 8, as a rule."""
    return Job(
        lengths=row_lengths(1, 11),
        model={"attention_dropout": 0.1},
        config={
            "zeroStage": stage,
            "method": {},
            "training": {"steps": STEPS, "accumulation": 2},
            "checkpoint": {"everySteps": 4, **checkpoint},
        },
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("stage", range(4))
def test_a_checkpoint_holds_the_step_at_which_it_began(tmp_path: Path, stage: int) -> None:
    results = run_gang(change_meanwhile, 2, job(stage), tmp_path)
    folder = tmp_path / CHECKPOINTS / "step-3"
    manifest.verify(folder)
    shards = [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]
    for rank, result in enumerate(results):
        for what in STATES:
            for name, stretches in result["saved"][what].items():
                for start, expected in stretches.items():
                    found = shards[rank][f"{name}|{start}|{what}"]
                    assert torch.equal(found, expected), (name, what)
                    assert not torch.equal(found, result["later"][what][name][start])
        told, real = result["sizes"]
        assert told == pytest.approx(real, rel=0.01), "memory, as it is logged at start"


@pytest.mark.parametrize("when", ["shard", "manifest", "rename"])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_crash_while_a_checkpoint_is_written_costs_that_one_alone(
    tmp_path: Path, stage: int, when: str
) -> None:
    straight = run_gang(train, 2, job(stage))
    ends = run_gang(die, 2, job(stage), tmp_path, 8, when)
    assert ends[0]["error"] == "KeyboardInterrupt"
    assert all(8 < end["step"] < STEPS for end in ends), "training had gone on"
    folder = tmp_path / CHECKPOINTS
    assert names(folder) == ["step-4", "step-8.tmp"]
    shards = ["rank-0.safetensors", *(["rank-1.safetensors"] if when != "shard" else [])]
    left = [*(["manifest.json"] if when == "rename" else []), *shards]
    assert names(folder / "step-8.tmp") == left
    parent = newest_verified(tmp_path, 1)
    assert parent is not None and parent.step == 4

    resumed = run_gang(train, 2, job(stage), tmp_path, 1)
    assert names(folder) == ["step-4"], "what was left over takes no space"
    assert resumed[0]["steps"] == straight[0]["steps"][4:]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("number", "kind", "words", "left"),
    [
        (errno.ENOSPC, "DiskFull", "No space left on device", ["step-4"]),
        (errno.EIO, "HardwareFault", "Input/output error", ["step-4", "step-8.tmp"]),
        (errno.EROFS, "Internal", "Read-only file system", ["step-4", "step-8.tmp"]),
    ],
)
def test_trap_s09_a_rank_that_cannot_write_stops_all_at_the_next_step(
    tmp_path: Path, number: int, kind: str, words: str, left: list[str]
) -> None:
    ends = run_gang(fail, 3, job(2), tmp_path, 8, number)
    assert [end["class"] for end in ends] == [kind] * 3
    assert all(words in end["message"] for end in ends)
    assert {end["step"] for end in ends} <= {9, 10}, "not when the other shards are written"
    assert names(tmp_path / CHECKPOINTS) == left
    assert not list((tmp_path / CHECKPOINTS).glob("step-8.tmp/rank-2.safetensors"))


def test_only_what_is_published_is_told(tmp_path: Path) -> None:
    results = run_gang(tell_meanwhile, 2, job(2), tmp_path)
    assert results[0]["told"] == [[], "train", [4, 8]]
    lines = map(json.loads, (tmp_path / "attempts/0/metrics.jsonl").read_text().splitlines())
    saved = [line for line in lines if "stallSeconds" in line]
    assert [line["step"] for line in saved] == [4, 8]
    assert all(0 < line["stallSeconds"] < line["seconds"] for line in saved)
    total = sum(line["stallSeconds"] for line in saved)
    assert total <= results[0]["seconds"]["checkpoint"] + 0.01


@pytest.mark.parametrize(("written", "left"), [(False, ["step-6"]), (True, ["step-4", "step-6"])])
def test_a_stop_drops_what_is_not_written_and_saves_the_newest_state(
    tmp_path: Path, written: bool, left: list[str]
) -> None:
    straight = run_gang(train, 2, job(2))
    ends = run_gang(stop_meanwhile, 2, job(2), tmp_path, written)
    assert [end["step"] for end in ends] == [6, 6]
    assert "step 6" in ends[0]["message"]
    assert names(tmp_path / CHECKPOINTS) == left
    resumed = run_gang(train, 2, job(2), tmp_path, 1)
    assert resumed[0]["steps"] == straight[0]["steps"][6:]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_trap_40_one_save_at_a_time_none_is_skipped_and_the_end_waits(tmp_path: Path) -> None:
    small = job(2, everySteps=2, keep=10)
    results = run_gang(save_slowly, 2, small, tmp_path)
    for result in results:
        assert result["published"] == [2, 4, 6, 8, 10]
        times = result["times"]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
        assert len(times) == 5
        assert result["stall"] > 5 * SLOW_SECONDS, "waiting is training that stands still"
    assert newest_verified(tmp_path, 1) is not None


def test_without_the_wish_training_stands_still(tmp_path: Path) -> None:
    small = job(2, everySteps=2, keep=10, asynchronous=False)
    results = run_gang(train, 2, small, tmp_path)
    assert results[0]["steps"] == run_gang(train, 2, job(2))[0]["steps"]
    lines = map(json.loads, (tmp_path / "attempts/0/metrics.jsonl").read_text().splitlines())
    saved = [line for line in lines if "stallSeconds" in line]
    assert [line["step"] for line in saved] == [2, 4, 6, 8, 10]
    assert all(line["stallSeconds"] == pytest.approx(line["seconds"], abs=0.05) for line in saved)
