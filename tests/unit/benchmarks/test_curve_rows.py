"""What the runs learn from, and what they are judged by."""

from __future__ import annotations

import json

import pytest

from benchmarks.curve_rows import Rows, rows_of
from benchmarks.curves_section import ALL

RUNS = {run.name: run for run in ALL}


@pytest.mark.parametrize("name", RUNS)
def test_no_row_is_both_learnt_and_held_out(name: str) -> None:
    rows = RUNS[name].rows
    train, held = ([json.dumps(row) for row in part] for part in rows_of(rows))
    assert len(train) == rows.count and len(held) == rows.held_count
    assert not set(train) & set(held)


def test_more_rows_hold_out_the_same() -> None:
    few, many = rows_of(Rows("prose", 10)), rows_of(Rows("prose", 100))
    assert few[1] == many[1] and few[0] == many[0][:10]


def test_wrong_answers_are_those_of_other_rows() -> None:
    right, _ = rows_of(Rows("chat", 100))
    wrong, _ = rows_of(Rows("chat", 100, wrong=0.3))
    differ = [one != other for one, other in zip(right, wrong, strict=True)]
    assert 20 < sum(differ) <= 30 and not any(differ[30:])
    assert [row["messages"][:-1] for row in right] == [row["messages"][:-1] for row in wrong]


def test_there_are_not_more_rows_than_the_text_has() -> None:
    with pytest.raises(ValueError, match="no 100000 rows"):
        rows_of(Rows("chat", 100_000))
