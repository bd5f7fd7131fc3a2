"""The schedule ends where the rows end: steps are counted from packed rows, not estimated."""

from __future__ import annotations

import pytest
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.workers import train

pytestmark = pytest.mark.gang

PEAK, FINAL = 0.01, 0.1
ROWS = [[9], [3, 4, 30], [40], [2], [2], [7, 5], [3], [60], [2], [25], [4]]
"""Packed badly on purpose: their 196 tokens would fit into four rows of 64."""


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 4), (2, 2)])
def test_trap_08_the_final_rate_comes_with_the_last_row_of_the_last_epoch(
    ranks: int, accumulation: int
) -> None:
    training = {"steps": None, "epochs": 2, "accumulation": accumulation, "learningRate": PEAK}
    training["schedule"] = {"type": "Linear", "warmupFraction": 0, "finalFraction": FINAL}
    results = run_gang(train, ranks, Job(ROWS, config={"training": training}))
    drawn = results[0]["rows"]
    assert [len(rows) for rows in drawn] == [4, 4, 3] * 2
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(len(ROWS)))
    for result in results:
        assert result["rates"][-1] == PEAK * FINAL
        assert all(rate > PEAK * FINAL for rate in result["rates"][:-1])
