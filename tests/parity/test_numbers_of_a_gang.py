"""Bad numbers in real gangs: left out, gone back behind, or the end; never applied, never silent.

A step that is skipped and a step that is passed over must leave the same weights, optimizer state,
learning rates and order of rows behind, bit for bit: so the one is held against the other.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.bad_numbers import diverge, one_bad_step
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import stop_in
from unit.trainer.train.jobs import Job, starting_model, train_rows
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.workers import train, train_in_fp16

from finetune_trainer.batches import epoch_order, share_of
from finetune_trainer.costs import costs_of
from finetune_trainer.session import adapt

SEED, ROWS, STEPS = 42, 11, 9
RECORD = ("skipped", "bad_steps", "bad_in_a_row", "loss_spikes", "recent_losses", "skipped_steps")


def row_of(step: int, rows: int = ROWS, batch: int = 4, *, place: int = 1) -> int:
    """The row at ``place`` of a step of the first epoch."""
    return int(epoch_order(SEED, 0, rows)[(step - 1) * batch + place])


def holder(folder: Path, small: Job, row: int, step: int = 2) -> str:
    """The micro-batch and rank of 2 that a row of a step is dealt to, as a message says it."""
    config = small.run_config(2)
    costs = costs_of(adapt(starting_model(small), config)).of(train_rows(folder / "rows", small))
    rows = epoch_order(SEED, 0, ROWS)[(step - 1) * 4 : step * 4]
    found = [
        f"micro-batch {number} of rank {rank}"
        for rank in range(2)
        for number, dealt in enumerate(
            share_of(
                rows,
                costs[rows],
                rank=rank,
                world_size=2,
                micro_batch_size=config.training.micro_batch_size,
            ),
            1,
        )
        if row in dealt
    ]
    assert len(found) == 1
    return found[0]


def job(bad: str = "output", *, step: int = 2, stage: int = 2, **config: Any) -> Job:
    """Three steps an epoch, dropout on; the bad row comes in steps 2, and in two later epochs."""
    settings = {
        "zeroStage": stage,
        "method": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "training": {"steps": STEPS, "accumulation": 2, "seed": SEED},
        "checkpoint": {"everySteps": 2, "keep": 20},
    }
    for name, value in config.items():
        settings[name] = value
    return Job(
        lengths=row_lengths(1, ROWS),
        model={"attention_dropout": 0.1},
        config=settings,
        bad_row=row_of(step),
        bad=bad,
    )


def surprising(stage: int = 2, *, rows: int = 120, **recovery: Any) -> Job:
    """Rows that all say the same, and one of noise, which comes in step 25 of 30."""
    return Job(
        lengths=[[9]] * rows,
        config={
            "zeroStage": stage,
            "method": {},
            "training": {
                "steps": rows // 4,
                "accumulation": 2,
                "learningRate": 0.01,
                "seed": SEED,
                "schedule": {"type": "Constant", "warmupFraction": 0.1},
            },
            "recovery": {"lossSpike": {"windowSteps": 8}, **recovery},
        },
        supervised=1.0,
        bad_row=row_of(25, rows),
        bad="surprise",
    )


def over(first: int, last: int, attempt: int = 0) -> dict[str, int]:
    return {"attempt": attempt, "firstStep": first, "lastStep": last}


def assert_same_end(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    expected, found = whole(one, "masters"), whole(other, "masters")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("bad", ["weight", "output", "gradient", "loss"])
def test_a_bad_step_changes_no_weight_on_any_rank(bad: str, stage: int) -> None:
    results = run_gang(one_bad_step, 2, job(bad, stage=stage))
    for result in results:
        (good, norm, _), (applied, _, _) = result["told"]
        assert good and math.isfinite(norm) and not applied
    losses = [sum(result["told"][step][2] for result in results) for step in (0, 1)]
    assert math.isfinite(losses[0])
    assert math.isfinite(losses[1]) == (bad == "gradient")
    start, before, after = (whole(results, f"masters{n}") for n in range(3))
    assert any(not torch.equal(start[name], before[name]) for name in start)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("stage", range(4))
def test_skipping_leaves_what_passing_over_leaves(stage: int) -> None:
    skipped = run_gang(train, 2, job(stage=stage))
    state = skipped[0]["state"]
    assert state["skipped"] == {"nonfinite": len(state["bad_steps"])}
    steps = [each["step"] for each in state["bad_steps"]]
    assert steps[0] == 2 and len(steps) == 3, "once in each of three epochs"
    lost = [over(step, step) for step in steps]
    passed = run_gang(train, 2, job(stage=stage, recovery={"passedOver": lost}))
    assert_same_end(skipped, passed)
    kept = [told for n, told in enumerate(skipped[0]["steps"], 1) if n not in steps]
    assert passed[0]["steps"] == kept, "losses, rates and norms of all other steps"
    assert passed[0]["state"]["skipped"] == {"passed_over": 3}
    for key in ("step", "samples", "recent_losses"):
        assert passed[0]["state"][key] == state[key], key


def test_a_run_with_skipped_steps_goes_on_bit_for_bit(tmp_path: Path) -> None:
    small = job()
    straight = run_gang(train, 2, small)
    run_gang(stop_in, 2, small, tmp_path, 0, "train", 4)
    resumed = run_gang(train, 2, small, tmp_path, 1)
    assert_same_end(straight, resumed)
    assert str(resumed[0]["steps"]) == str(straight[0]["steps"][5:]), "NaN is not equal to itself"
    for key in (*RECORD, "samples", "tokens"):
        assert resumed[0]["state"][key] == straight[0]["state"][key], key
    assert straight[0]["state"]["skipped"] == {"nonfinite": 3}


@pytest.mark.parametrize("stage", range(4))
def test_a_spike_is_skipped_as_if_its_rows_were_not_there(stage: int) -> None:
    skipped = run_gang(train, 2, surprising(stage, onLossSpike="Skip"))
    state = skipped[0]["state"]
    assert state["bad_steps"] == [{"step": 25, "reason": "loss_spike"}]
    assert (state["loss_spikes"], state["skipped"]) == (1, {"loss_spike": 1})
    passed = run_gang(train, 2, surprising(stage, passedOver=[over(25, 25)]))
    assert_same_end(skipped, passed)
    assert passed[0]["state"]["recent_losses"] == state["recent_losses"]
    ignored = run_gang(train, 2, surprising(stage))
    assert (ignored[0]["state"]["loss_spikes"], ignored[0]["state"]["skipped"]) == (1, {})
    assert ignored[0]["steps"][:24] == skipped[0]["steps"][:24]
    assert whole(ignored, "masters").keys() == whole(skipped, "masters").keys()
    assert any(
        not torch.equal(values, whole(skipped, "masters")[name])
        for name, values in whole(ignored, "masters").items()
    ), "ignoring it is another thing"


def test_a_spike_in_fp16_leaves_the_loss_scale_alone_even_at_its_minimum() -> None:
    small = surprising(2, onLossSpike="Skip")
    small.config["training"]["precision"] = "FP16"
    result = run_gang(train_in_fp16, 2, small, 1.0)[0]
    assert result["state"]["skipped"] == {"loss_spike": 1}
    assert set(result["scales"]) == {1.0}


def test_stop_ends_at_the_bad_step_and_names_rank_micro_batch_and_layer(tmp_path: Path) -> None:
    small = job(recovery={"onNonFinite": "Stop"})
    results = run_gang(diverge, 2, small)
    assert [result["error"] for result in results] == ["NonFinite"] * 2
    message = results[0]["message"]
    assert message == results[1]["message"]
    assert message.startswith("loss or gradients are not finite at step 2: loss nan, gradient norm")
    place = f"{holder(tmp_path, small, row_of(2))} (packed rows {row_of(2)})"
    assert f"{place}, first in the output of" in message
    assert message.endswith("layers.1.mlp.act_fn")
    assert "spec.training.learningRate" in results[0]["hint"]
    assert results[0]["beat"] == 1, "the last step that was done, as the failure record tells it"
    assert [json.loads(line)["step"] for line in results[0]["lines"]] == [1]


@pytest.mark.parametrize(
    ("bad", "place", "says"),
    [
        ("gradient", 1, "first in the gradient of"),
        ("weight", 1, "embed_tokens.weight itself is not finite"),
        ("loss", 0, "first in the output of"),
        ("loss", 2, "first in the output of"),
    ],
)
def test_the_place_is_told_whatever_it_is(tmp_path: Path, bad: str, place: int, says: str) -> None:
    small = job(bad, recovery={"onNonFinite": "Stop"})
    small.bad_row = row_of(2, place=place)
    message = run_gang(diverge, 2, small)[0]["message"]
    assert says in message, message
    assert holder(tmp_path, small, small.bad_row) in message or bad == "weight", message


def test_a_spike_that_ends_training_names_the_rows_that_made_it() -> None:
    results = run_gang(diverge, 2, surprising(onLossSpike="Stop"))
    assert [result["error"] for result in results] == ["LossSpike"] * 2
    assert results[0]["message"] == results[1]["message"]
    assert "loss spike at step 25: the loss jumped to" in results[0]["message"]
    assert f"of rank 1 (packed rows {row_of(25, 120)})" in results[0]["message"]
    assert results[0]["beat"] == 24


def test_going_back_gives_what_a_run_without_those_rows_gives(tmp_path: Path) -> None:
    """Bad at step 5; steps 4 and 5 are passed over, from the checkpoint of step 2."""
    small = job(step=2, training={"steps": STEPS, "accumulation": 2, "seed": SEED})
    small.bad_row = int(epoch_order(SEED, 1, ROWS)[4 + 1])
    first_epoch = epoch_order(SEED, 0, ROWS).tolist().index(small.bad_row) // 4 + 1
    third_epoch = epoch_order(SEED, 2, ROWS).tolist().index(small.bad_row) // 4 + 7
    others = [over(step, step, attempt=-1) for step in (first_epoch, third_epoch)]
    small.config["recovery"] = {"onNonFinite": "RollBack", "passedOver": others}
    ended = run_gang(diverge, 2, small, tmp_path, 0)
    assert [result["error"] for result in ended] == ["NonFinite"] * 2
    assert ended[0]["beat"] == 4

    small.config["recovery"] = {"onNonFinite": "RollBack", "passedOver": [*others, over(4, 5)]}
    resumed = run_gang(train, 2, small, tmp_path, 1)
    parent = json.loads((tmp_path / "attempts/1/parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, 2), "that of step 4 is suspect"
    straight = run_gang(train, 2, small)
    assert_same_end(straight, resumed)
    for key in (*RECORD, "samples", "step"):
        assert resumed[0]["state"][key] == straight[0]["state"][key], key
    lines = map(json.loads, (tmp_path / "attempts/1/metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if not {"evalLoss", "checkpointBytes"} & line.keys()]
    told = {line["step"]: line.get("skipped") for line in steps}
    assert [step for step, why in told.items() if why == "passed_over"] == sorted(
        {4, 5, *(s for s in (first_epoch, third_epoch) if s > 2)}
    )


def test_a_real_curve_has_no_spike() -> None:
    """300 steps of a model that learns, with warm-up, dropout, noisy batches and epochs."""
    noisy = Job(
        lengths=row_lengths(7, 80),
        config={
            "method": {},
            "training": {
                "steps": 300,
                "accumulation": 1,
                "learningRate": 0.01,
                "dropout": 0.1,
                "schedule": {"warmupFraction": 0.1},
            },
        },
    )
    result = run_gang(train, 2, noisy)[0]
    losses = [step["loss"] for step in result["steps"]]
    assert max(losses) - min(losses) > 1, "it does learn, and its losses scatter"
    assert result["state"]["loss_spikes"] == 0
