"""A run that learns by heart, stopped, and its best weights brought back. Real gangs.

The rows are random tokens, so training rows teach nothing about held-out ones. The rate is
constant: the weights after n steps are the same however long the job was meant to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import stop_in
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.workers import train

STEPS = 24


def job(action: str, *, steps: int = STEPS, stage: int = 2, lora: bool = False, **more: Any) -> Job:
    return Job(
        lengths=row_lengths(1, 4),
        eval_lengths=row_lengths(2, 3),
        prompts=[[5, 6, 7]],
        config={
            "zeroStage": stage,
            "method": {"lora": {"rank": 4, "dropout": 0.1}} if lora else {},
            "training": {
                "steps": steps,
                "learningRate": 0.02,
                "schedule": {"type": "Constant", "warmupFraction": 0},
            },
            "evaluation": {
                "everySteps": 1,
                "generation": {"maxNewTokens": 4, "metrics": ["ExactMatch"]},
                "overfitting": {"action": action, "patience": 3},
            },
            **more,
        },
    )


def lines(workspace: Path, attempt: int = 0) -> list[dict[str, Any]]:
    path = workspace / f"attempts/{attempt}/metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("stage", "lora"), [(0, False), (2, True), (3, False)], ids=str)
def test_trap_s11_the_best_weights_come_back(tmp_path: Path, stage: int, lora: bool) -> None:
    results = run_gang(train, 2, job("StopKeepBest", stage=stage, lora=lora), tmp_path)
    state = results[0]["state"]
    best, curve = state["best"]["step"], [point["evalLoss"] for point in state["curve"]]
    assert state["stopped"] and state["step"] == best + 3 < STEPS
    assert state["best"]["evalLoss"] == min(curve) == curve[best - 1]
    assert state["judgement"]["finding"] in ("Overfitting", "NoImprovement")
    assert f"stopped, step {best} is kept" in state["judgement"]["message"]
    # Bit for bit the weights of a job that ended there, and the scores are theirs.
    short = run_gang(train, 2, job("Warn", steps=best, stage=stage, lora=lora))
    expected, found = whole(short, "masters"), whole(results, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert state["metrics"]["evalLoss"] == pytest.approx(state["best"]["evalLoss"], rel=1e-9)
    gap = state["metrics"]["evalLoss"] - state["curve"][best - 1]["trainLoss"]
    assert state["metrics"]["generalizationGap"] == pytest.approx(gap, rel=1e-9)
    told = [(line["step"], line.get("restored")) for line in lines(tmp_path) if "answers" in line]
    assert told == [(0, None), (best + 3, best)]
    assert f"after step {best}" in (tmp_path / "attempts/0/answers.html").read_text()


def test_a_warning_changes_nothing_of_what_is_learnt() -> None:
    warned, ignored = (run_gang(train, 2, job(action)) for action in ("Warn", "Ignore"))
    assert warned[0]["steps"] == ignored[0]["steps"] and len(warned[0]["steps"]) == STEPS
    assert warned[0]["state"]["judgement"]["finding"] == "Overfitting"
    assert ignored[0]["state"]["judgement"] is None
    assert not warned[0]["state"]["stopped"]
    assert "generalizationGap" not in ignored[0]["state"]["metrics"]
    metrics = warned[0]["state"]["metrics"]
    assert metrics["generalizationGap"] == metrics["evalLoss"] - metrics["trainSampleLoss"] > 1


@pytest.mark.parametrize("action", ["Warn", "StopKeepBest"])
def test_a_rate_that_is_much_too_high_is_named_and_does_no_harm_where_the_best_is_kept(
    action: str,
) -> None:
    """Every loss is finite, so no step is refused: it has to be read from the evaluations."""
    small = job(action)
    small.config["training"] |= {"learningRate": 10.0, "steps": 8}
    state = run_gang(train, 2, small)[0]["state"]
    metrics, said = state["metrics"], state["judgement"]
    base = metrics["baseline"]
    curve = [(point["evalLoss"], point["trainLoss"]) for point in state["curve"]]
    assert state["skipped"] == {}
    assert said["finding"] == "Diverged"
    assert "try a tenth of training.learningRate" in said["message"]
    assert curve[-1][0] > 1.5 * base["evalLoss"]
    if action == "Warn":
        assert state["step"] == 8 and metrics["evalLoss"] == curve[-1][0]
    else:
        assert state["step"] < 8 and metrics["evalLoss"] == pytest.approx(min(curve)[0])
        assert f"stopped, step {state['best']['step']} is kept" in said["message"]


def test_losses_on_both_sides_are_on_one_scale(tmp_path: Path) -> None:
    """Where the same rows are trained on and held out, there is no gap, dropout or not."""
    same = job("Warn", steps=3, lora=True)
    same.eval_lengths = same.lengths
    same.same_rows = True
    state = run_gang(train, 2, same, tmp_path)[0]["state"]
    assert state["metrics"]["generalizationGap"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("phase", ["train", "eval"])
def test_patience_and_the_best_survive_a_stop(tmp_path: Path, phase: str) -> None:
    straight = run_gang(train, 2, job("StopKeepBest"), tmp_path / "straight")
    best, over = straight[0]["state"]["best"]["step"], straight[0]["state"]["step"]
    where = tmp_path / "stopped"
    # Amid the steps after the best, or amid the answers of the weights that came back.
    stopped = run_gang(
        stop_in, 2, job("StopKeepBest"), where, 0, phase, best + 1 if phase == "train" else over
    )
    assert stopped[0]["message"]
    resumed = run_gang(train, 2, job("StopKeepBest"), where, 1)
    for key in ("best", "step", "stopped", "judgement", "curve", "metrics"):
        assert resumed[0]["state"][key] == straight[0]["state"][key], key
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    small = job("StopKeepBest", checkpoint={"everySteps": 1, "keep": 1, "asynchronous": False})
    state = run_gang(train, 2, small, tmp_path)[0]["state"]
    left = {path.name for path in (tmp_path / "attempts/0/checkpoints").glob("step-*")}
    assert f"step-{state['best']['step']}" in left and len(left) == 2
