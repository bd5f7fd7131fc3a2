"""Saving and going on, in real gangs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import begin, believed_dead, stop_in
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.volumes import fill_up, fill_up_at_the_end, save_often
from unit.trainer.train.workers import export, train

STEPS = 9


def job(stage: int, *, method: dict[str, Any] | None = None, **training: Any) -> Job:
    """Dropout everywhere, 11 rows in windows of 4: the stop falls into the second epoch."""
    return Job(
        lengths=row_lengths(1, 11),
        eval_lengths=row_lengths(2, 3),
        model={"attention_dropout": 0.1},
        config={
            "zeroStage": stage,
            "method": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
            if method is None
            else method,
            "training": {"steps": STEPS, "accumulation": 2, **training},
            "evaluation": {"everySteps": 4},
            "checkpoint": {"everySteps": 4},
        },
    )


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("method", ["lora", "full"])
def test_traps_22_23_25_s08_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, stage: int, method: str
) -> None:
    small = job(stage, method={} if method == "full" else None, neftuneNoiseAlpha=5)
    straight = run_gang(train, 2, small)
    stopped = run_gang(stop_in, 2, small, tmp_path, 0, "train", 4)
    assert [result["step"] for result in stopped] == [5, 5]
    assert "step 5" in stopped[0]["message"]
    resumed = run_gang(train, 2, small, tmp_path, 1)

    assert resumed[0]["steps"] == straight[0]["steps"][5:], "losses, rates and norms"
    assert resumed[0]["rows"] == straight[0]["rows"][5:]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    # One evaluation fell into the first part, and its numbers came along.
    for key in ("tokens", "supervised_tokens", "samples", "best", "metrics"):
        assert resumed[0]["state"][key] == straight[0]["state"][key], key


@pytest.mark.parametrize("step", [4, 8])
def test_an_evaluation_cut_off_by_a_stop_is_made_up_for(tmp_path: Path, step: int) -> None:
    small = job(2)
    straight = run_gang(train, 2, small)
    stopped = run_gang(stop_in, 2, small, tmp_path, 0, "eval", step)
    assert [result["step"] for result in stopped] == [step, step]
    resumed = run_gang(train, 2, small, tmp_path, 1)
    assert resumed[0]["steps"] == straight[0]["steps"][step:]
    for key in ("best", "metrics", "evaluated_step"):
        assert resumed[0]["state"][key] == straight[0]["state"][key], key


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("stage", range(4))
def test_trap_21_another_number_of_ranks_goes_on_with_the_same_rows(
    tmp_path: Path, stage: int, before: int, after: int
) -> None:
    def sized(ranks: int) -> Job:
        small = job(stage, method={}, accumulation=4 // ranks)
        small.model = {}
        return small

    straight = run_gang(train, before, sized(before))
    run_gang(stop_in, before, sized(before), tmp_path, 0, "train", 4)
    resumed = run_gang(train, after, sized(after), tmp_path, 1)
    assert resumed[0]["rows"] == straight[0]["rows"][5:]
    for found, expected in zip(resumed[0]["steps"], straight[0]["steps"][5:], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_gang_that_shrinks_and_grows_goes_on_with_the_same_rows(tmp_path: Path) -> None:
    """2 → 1 → 3 ranks, with the stages that the operator takes: one rank has nothing to split."""

    def sized(ranks: int) -> Job:
        small = job(0 if ranks == 1 else 2, method={}, accumulation=6 // ranks)
        small.model = {}
        return small

    straight = run_gang(train, 2, sized(2))
    parts = [
        run_gang(stop_in, 2, sized(2), tmp_path, 0, "train", 3),
        run_gang(stop_in, 1, sized(1), tmp_path, 1, "train", 6),
        run_gang(train, 3, sized(3), tmp_path, 2),
    ]
    assert [part[0]["step"] for part in parts[:2]] == [4, 7]
    last = parts[2][0]
    assert last["rows"] == straight[0]["rows"][7:]
    losses = [step["loss"] for step in last["steps"]]
    assert losses == pytest.approx([step["loss"] for step in straight[0]["steps"][7:]], rel=1e-4)
    assert last["state"]["samples"] == straight[0]["state"]["samples"]


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2), (2, 3)])
def test_a_smaller_training_goes_on_with_the_same_rows(
    tmp_path: Path, before: int, after: int
) -> None:
    """As it is after too little memory: micro-batch, checkpointing and ZeRO stage change."""

    def sized(stage: int, **training: Any) -> Job:
        small = job(stage, method={}, **training)
        small.model = {}
        return small

    large = sized(before, microBatchSize=2, accumulation=1)
    straight = run_gang(train, 2, large)
    run_gang(stop_in, 2, large, tmp_path, 0, "train", 4)
    smaller = sized(after, microBatchSize=1, accumulation=2, activationCheckpointing=True)
    resumed = run_gang(train, 2, smaller, tmp_path, 1)
    assert resumed[0]["rows"] == straight[0]["rows"][5:]
    for found, expected in zip(resumed[0]["steps"], straight[0]["steps"][5:], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "sight",
    ["none", "clear", "late"],
    ids=["goes on saving", "gives way", "finds its files cleared away"],
)
def test_a_gang_that_was_believed_dead_changes_nothing(tmp_path: Path, sight: str) -> None:
    """Attempt 0 saves after every step and keeps one checkpoint, so it removes what attempt 1 went
    on from; attempt 1 ends before its first step, and attempt 2 has to find its way."""
    small = job(2)
    small.config["checkpoint"] = {"everySteps": 1, "keep": 1, "asynchronous": False}
    straight = run_gang(train, 2, small)
    ends: list[Any] = []
    zombie = threading.Thread(
        target=lambda: ends.extend(run_gang(believed_dead, 2, small, tmp_path, 4, sight))
    )
    zombie.start()
    saved = tmp_path / "attempts/0/checkpoints"
    while zombie.is_alive() and not (saved / "step-4").exists():
        time.sleep(0.05)
    assert run_gang(begin, 2, small, tmp_path, 1)[0] == (0, 4)
    zombie.join()
    left = sorted(path.name for path in saved.iterdir())
    if sight == "none":
        assert (ends[0]["message"], ends[0]["step"], left) == (None, STEPS, ["step-8"])
    else:
        assert "attempt 1 has taken over" in ends[0]["message"]
        assert (ends[0]["step"], left) == (5, ["step-4"])
    assert ends[0] == ends[1]

    resumed = run_gang(train, 2, small, tmp_path, 2)
    parent = json.loads((tmp_path / "attempts/2/parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, 4)
    assert resumed[0]["steps"] == straight[0]["steps"][4:]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_is_whole_and_names_everything_in_it(tmp_path: Path) -> None:
    run_gang(stop_in, 2, job(2), tmp_path, 0, "train", 4)
    folder = tmp_path / "attempts/0/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-4", "step-5"]
    manifest = json.loads((folder / "step-5/manifest.json").read_text())
    assert {name: fact["size"] for name, fact in manifest["files"].items()} == {
        path.name: path.stat().st_size for path in (folder / "step-5").glob("*.safetensors")
    }
    assert manifest["step"] == 5
    assert manifest["state"]["samples"] == 11 + 8
    assert manifest["worldSize"] == 2
    assert [manifest["zeroStage"], manifest["precision"]] == [2, "FP32"]
    names = {key.split("|")[2] for key in load_file(folder / "step-5/rank-0.safetensors")}
    assert names == {"master", "exp_avg", "exp_avg_sq", "step"}


def test_trap_s10_a_rank_without_space_stops_all_ranks_with_the_same_class(tmp_path: Path) -> None:
    results = run_gang(fill_up, 3, job(2), tmp_path)
    assert [result["error"] for result in results] == ["DiskFull"] * 3
    assert "No space left" in results[0]["message"]
    assert not list((tmp_path / "attempts/0/checkpoints").glob("step-?"))


def test_final_weights_without_space_stop_all_ranks_with_the_same_class(tmp_path: Path) -> None:
    results = run_gang(fill_up_at_the_end, 2, job(2), tmp_path)
    assert [result["error"] for result in results] == ["DiskFull", "DiskFull"]
    assert "no space is left on the claim of spec.storage" in results[1]["message"]
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [pytest.param(2, 2, [2, 4, 5], id="two"), pytest.param(1, 1, [1, 5], id="one")],
)
@pytest.mark.parametrize("asynchronous", [True, False])
def test_trap_39_retention_keeps_the_newest_and_the_best(
    tmp_path: Path, asynchronous: bool, keep: int, best: int, kept: list[int]
) -> None:
    small = job(2)
    small.config["checkpoint"] = {"keep": keep}
    left = run_gang(save_often, 2, small, tmp_path, [1, 2, 3, 4, 5], best, asynchronous)[0]
    assert left == kept
    folder = tmp_path / "attempts/0/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step}" for step in kept]


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_traps_15_16_s19_the_saved_weights_are_those_that_were_trained(
    tmp_path: Path, stage: int, method: str
) -> None:
    results = run_gang(export, 2, job(stage, method={} if method == "full" else None), tmp_path)
    trained = whole(results, "masters")
    saved: dict[str, torch.Tensor] = {}
    for path in (tmp_path / ("adapter" if method == "lora" else "model")).glob("*.safetensors"):
        saved |= load_file(path)
    plain = {name.replace(".default.", "."): values for name, values in trained.items()}
    assert saved.keys() == plain.keys()
    for name, values in saved.items():
        assert values.dim() >= 1
        assert torch.equal(values.view(-1), plain[name]), name
