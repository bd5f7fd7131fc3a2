"""Lists and columns of numbers, read in place from a mapped table."""

from __future__ import annotations

import datasets  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.prepare.lists import Lists, column_of

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=6)


@given(st.lists(st.tuples(ROWS, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4))
def test_every_row_is_the_one_that_arrow_tells(
    parts: list[tuple[list[list[int]], int, int]],
) -> None:
    """Also of chunks that are slices of others, and of empty ones."""
    chunks = [
        pa.array(rows, pa.list_(pa.int32())).slice(start, max(0, len(rows) - start - end))
        for rows, start, end in parts
    ]
    column = pa.chunked_array(chunks, pa.list_(pa.int32()))
    lists = Lists(column)
    assert len(lists) == len(column)
    assert [lists[row].tolist() for row in range(len(lists))] == column.to_pylist()
    for outside in (-1, len(lists)):
        with pytest.raises(IndexError):
            lists[outside]


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_lists_of_many_rows_are_those_of_each_row(
    parts: list[list[list[int]]], data: st.DataObject
) -> None:
    lists = Lists(pa.chunked_array(parts, pa.list_(pa.int32())))
    rows = [row for part in parts for row in part]
    if rows:
        chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
        for numbers in (chosen, sorted(chosen), range(len(rows))):
            values, lengths = lists.together(np.array(numbers))
            assert values.tolist() == [value for number in numbers for value in rows[number]]
            assert lengths.tolist() == [len(rows[number]) for number in numbers]


@pytest.mark.parametrize("chosen", [None, [], [1, 2, 3], [4, 0, 2]])
def test_a_column_has_the_rows_that_were_chosen(chosen: list[int] | None) -> None:
    table = datasets.Dataset.from_dict({"key": [10, 11, 12, 13, 14], "text": list("abcde")})
    samples = table if chosen is None else table.select(chosen)
    assert column_of(samples, "key").tolist() == samples["key"][:]
