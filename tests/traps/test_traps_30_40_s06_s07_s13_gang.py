"""Traps that only a gang of ranks under ZeRO can spring."""

from __future__ import annotations

from typing import Any

import pytest
from traps.ranks import alone, look
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.schedule import learning_rate

pytestmark = pytest.mark.gang

ROWS = [[2], [12, 20], [9], [3, 4, 30], [10], [7], [2, 2], [25]]


SPLIT = Job(
    [[9], [3, 4]],
    config={"zeroStage": 3, "method": {}},
    model={"num_hidden_layers": 1, "tie_word_embeddings": True},
)


@pytest.fixture(scope="module")
def seen() -> list[dict[str, Any]]:
    return run_gang(look, 2, SPLIT, timeout=300)


def test_trap_30_a_rank_that_saves_or_evaluates_beyond_the_time_limit_of_gradients_is_waited_for(
    seen: list[dict[str, Any]],
) -> None:
    """It takes twice as long as the group of the gradients waits."""
    assert [rank["saved"] for rank in seen] == [[1], [1]]
    assert seen[0]["tokens"] == seen[1]["tokens"] > 0


def test_trap_40_the_thread_that_writes_takes_part_in_no_exchange(
    seen: list[dict[str, Any]],
) -> None:
    """So it needs no group of its own, and there is none that two threads could lock up."""
    for rank in seen:
        assert rank["callers"] and set(rank["callers"]) == {"MainThread"}


def test_trap_s13_gathered_weights_are_given_back(seen: list[dict[str, Any]]) -> None:
    """DeepSpeed 0.19 does so at the end of the block, whichever rank may change them."""
    whole = sum(p.numel() for p in tiny_llama(**SPLIT.model).parameters())
    assert [rank["gathered"] for rank in seen] == [whole, 0]
    for before, after in (rank["held"] for rank in seen):
        assert before == after < whole


TRAINING = {"steps": 6, "accumulation": 1, "learningRate": 0.01}
ALONE = Job(ROWS, config={"method": {}, "training": TRAINING}, bad_row=3)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    results: list[dict[str, Any]] = run_gang(alone, 1, ALONE)
    return results[0]


def test_trap_s06_a_misspelt_setting_is_reported(one: dict[str, Any]) -> None:
    assert one["misspelt"] is not None
    assert one["misspelt"].startswith("DeepSpeed runs with {")
    assert "'gradient_clipping': 1.0" in one["misspelt"]


def test_trap_s07_a_skipped_step_does_not_hold_the_schedule_back(one: dict[str, Any]) -> None:
    assert one["state"]["skipped"] == {"nonfinite": 1}
    schedule = ALONE.run_config(1).training.schedule
    assert one["told"] == one["set"] == [learning_rate(schedule, 0.01, n, 6) for n in range(6)]
