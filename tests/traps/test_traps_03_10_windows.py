"""Windows that are not like the others: the last one of an epoch, and those with a row that has no
target. Five rows in windows of two: the row without targets is once a whole window, and shares
another one; the last window of the second epoch has one row with targets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from parity.reference import train_plainly
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.workers import train

from finetune_trainer.batches import epoch_order

pytestmark = pytest.mark.gang

SILENT, RANKS, SEED = 0, 2, 42
JOB = Job(
    [[5, 6], [12, 20], [2, 2], [3], [14, 3]],
    silent_row=SILENT,
    config={
        "method": {},
        "training": {
            "steps": 6,
            "accumulation": 1,
            "learningRate": 0.1,
            "maxGradNorm": 0,
            "seed": SEED,
            "optimizer": {"type": "SGD"},
            "schedule": {"type": "Constant"},
        },
    },
)


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    trained: list[dict[str, Any]] = run_gang(train, RANKS, JOB)
    return trained


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return train_plainly(JOB, RANKS)


def test_trap_03_the_last_short_window_moves_weights_as_the_mean_of_its_own_targets(
    results: list[dict[str, Any]], plain: dict[str, Any]
) -> None:
    assert epoch_order(SEED, 1, 5)[-1] != SILENT, "the last step has one row, with targets"
    assert [len(rows) for rows in results[0]["rows"]] == [2, 2, 1] * 2
    found, expected = whole(results, "masters"), plain["masters"]
    for name, values in expected.items():
        assert torch.allclose(found[name], values, rtol=0, atol=1e-6), name
    assert results[0]["steps"][-1]["loss"] == pytest.approx(plain["losses"][-1], rel=1e-6)


def test_trap_10_a_window_without_targets_is_skipped_and_a_row_without_them_weighs_nothing(
    results: list[dict[str, Any]], plain: dict[str, Any]
) -> None:
    assert list(results[0]["rows"][2]) == [SILENT] and SILENT in results[0]["rows"][3]
    for told, loss in zip(results[0]["steps"], plain["losses"], strict=True):
        if math.isnan(loss):
            assert told["loss"] is None and told["gradNorm"] is None, told
        else:
            assert told["loss"] == pytest.approx(loss, rel=1e-6)
    assert [math.isnan(loss) for loss in plain["losses"]] == [False, False, True] + [False] * 3
    state = results[0]["state"]
    assert state["skipped"] == {"no_tokens": 1} and state["step"] == 6
