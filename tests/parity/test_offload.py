"""Optimizer and parameters in host memory: the same training, the same checkpoints.

On CPUs both memories are one, but the code that moves between them runs all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.reference import train_plainly
from parity.test_parity import Cell, relative_norm
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import stop_in
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import make_workspace, row_lengths
from unit.trainer.train.workers import (
    export,
    train,
    train_from_folder,
    train_with_a_layer_that_rests,
)

OPTIMIZER = {"optimizer": "CPU"}
PARAMETERS = {"parameters": "CPU"}
BOTH = {**OPTIMIZER, **PARAMETERS}


def offloaded(job: Job, offload: dict[str, str]) -> Job:
    return Job(**{**vars(job), "config": {**job.config, "offload": offload}})


@pytest.mark.parametrize(
    ("cell", "offload"),
    [
        (Cell(1, "full", 4, 2, "AdamW"), OPTIMIZER),
        (Cell(1, "lora", 1, 3, "SGD"), OPTIMIZER),
        (Cell(2, "full", 4, 2, "AdamW"), OPTIMIZER),
        (Cell(2, "lora", 4, 1, "AdamW"), OPTIMIZER),
        (Cell(3, "full", 4, 2, "AdamW"), OPTIMIZER),
        (Cell(3, "full", 1, 3, "SGD"), PARAMETERS),
        (Cell(3, "lora", 4, 2, "AdamW"), BOTH),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_trap_27_offloaded_training_equals_plain_torch(cell: Cell, offload: dict[str, str]) -> None:
    """And bit for bit the same training without offload."""
    job = cell.job()
    expected = train_plainly(job, cell.ranks)
    results = run_gang(train, cell.ranks, offloaded(job, offload))
    losses = [step["loss"] for step in results[0]["steps"]]
    masters = whole(results, "masters")
    assert losses == pytest.approx(expected["losses"], rel=1e-6)
    assert relative_norm(whole(results, "gradients"), expected["gradients"]) <= 1e-6
    assert relative_norm(masters, expected["masters"]) <= 1e-5
    job.first_gradient = False
    kept = whole(run_gang(train, cell.ranks, job), "masters")
    assert all(torch.equal(masters[name], values) for name, values in kept.items())


def short(stage: int, precision: str, offload: dict[str, str]) -> Job:
    job = offloaded(Cell(stage, "full", 4, 2, "AdamW").job(), offload)
    job.first_gradient = False
    job.config["training"] = {**job.config["training"], "precision": precision, "steps": 4}
    return job


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, OPTIMIZER), (2, OPTIMIZER), (3, OPTIMIZER), (3, BOTH)]
)
def test_sums_of_a_long_window_keep_their_bits_in_bf16(stage: int, offload: dict[str, str]) -> None:
    """Rounded to 16 bits with each micro-batch, they would not be the same."""
    kept, moved = (
        whole(run_gang(train, 2, short(stage, "BF16", each)), "masters") for each in ({}, offload)
    )
    assert all(torch.equal(moved[name], values) for name, values in kept.items())


@pytest.fixture(scope="module")
def rested() -> dict[str, torch.Tensor]:
    return whole(run_gang(train_with_a_layer_that_rests, 2, short(0, "FP32", {})), "masters")


@pytest.mark.parametrize(("stage", "offload"), [(1, OPTIMIZER), (2, OPTIMIZER), (3, {}), (3, BOTH)])
def test_a_weight_that_nothing_reaches_does_not_get_an_old_gradient(
    stage: int, offload: dict[str, str], rested: dict[str, torch.Tensor]
) -> None:
    results = run_gang(train_with_a_layer_that_rests, 2, short(stage, "FP32", offload))
    assert relative_norm(whole(results, "masters"), rested) <= 1e-6


@pytest.mark.parametrize(("stage", "offload"), [(2, OPTIMIZER), (3, BOTH)])
def test_a_step_that_is_not_finite_changes_nothing_in_host_memory(
    stage: int, offload: dict[str, str]
) -> None:
    ends = []
    for each in ({}, offload):
        job = short(stage, "FP32", each)
        job.bad_row = 5
        ends.append(run_gang(train, 2, job))
    kept, moved = ends
    assert moved[0]["state"]["bad_steps"] == kept[0]["state"]["bad_steps"] != []
    found = whole(moved, "masters")
    assert all(torch.equal(found[name], values) for name, values in whole(kept, "masters").items())


def resumable(stage: int, offload: dict[str, str], ranks: int = 2, **training: Any) -> Job:
    """Dropout, clipping and noise; 11 rows in windows of 4: the stop falls into epoch 2."""
    return Job(
        lengths=row_lengths(1, 11),
        eval_lengths=row_lengths(2, 3),
        model={"attention_dropout": 0.1},
        config={
            "zeroStage": stage,
            "offload": offload,
            "method": {},
            "training": {
                "steps": 9,
                "accumulation": 4 // ranks,
                "neftuneNoiseAlpha": 5,
                **training,
            },
            "evaluation": {"everySteps": 4},
            "checkpoint": {"everySteps": 4},
        },
    )


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, OPTIMIZER), (2, OPTIMIZER), (3, OPTIMIZER), (3, BOTH)]
)
def test_a_stopped_offloaded_run_goes_on_bit_for_bit(
    tmp_path: Path, stage: int, offload: dict[str, str]
) -> None:
    job = resumable(stage, offload)
    straight = run_gang(train, 2, job)
    stopped = run_gang(stop_in, 2, job, tmp_path, 0, "train", 4)
    assert [result["step"] for result in stopped] == [5, 5]
    resumed = run_gang(train, 2, job, tmp_path, 1)
    assert resumed[0]["steps"] == straight[0]["steps"][5:], "losses, rates and norms"
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(found[name], values) for name, values in expected.items())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((2, 2, {}), (3, 2, OPTIMIZER), id="down the ladder"),
        pytest.param((3, 2, OPTIMIZER), (3, 2, BOTH), id="and further"),
        pytest.param((2, 2, OPTIMIZER), (2, 1, OPTIMIZER), id="with fewer ranks"),
        pytest.param((3, 1, BOTH), (2, 2, {}), id="and back on the GPUs"),
    ],
)
def test_an_offloaded_run_goes_on_from_a_checkpoint_of_another_shape(
    tmp_path: Path, before: tuple[int, int, dict[str, str]], after: tuple[int, int, dict[str, str]]
) -> None:
    def shaped(stage: int, ranks: int, offload: dict[str, str]) -> Job:
        job = resumable(stage, offload, ranks, neftuneNoiseAlpha=None)
        job.model = {}
        return job

    straight = run_gang(train, before[1], shaped(*before))
    run_gang(stop_in, before[1], shaped(*before), tmp_path, 0, "train", 4)
    resumed = run_gang(train, after[1], shaped(*after), tmp_path, 1)
    assert resumed[0]["rows"] == straight[0]["rows"][5:]
    for found, expected in zip(resumed[0]["steps"], straight[0]["steps"][5:], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_model_is_loaded_right_into_its_offloaded_parts(tmp_path: Path) -> None:
    job = Cell(3, "lora", 4, 2, "AdamW").job()
    told = [
        run_gang(train_from_folder, 2, each, make_workspace(tmp_path / str(number)))
        for number, each in enumerate((job, offloaded(job, BOTH)))
    ]
    assert told[1][0]["elements_after_loading"] == 0
    losses = [[step["loss"] for step in result[0]["steps"]] for result in told]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_weights_of_an_offloaded_run_are_saved_whole(tmp_path: Path, method: str) -> None:
    from safetensors.torch import load_file

    job = resumable(3, BOTH)
    if method == "lora":
        job.config["method"] = {"lora": {"rank": 4, "alpha": 8}}
    trained = whole(run_gang(export, 2, job, tmp_path), "masters")
    saved: dict[str, torch.Tensor] = {}
    for path in (tmp_path / ("adapter" if method == "lora" else "model")).glob("*.safetensors"):
        saved |= load_file(path)
    plain = {name.replace(".default.", "."): values for name, values in trained.items()}
    assert saved.keys() == plain.keys()
    assert all(torch.equal(values.view(-1), plain[name]) for name, values in saved.items())
