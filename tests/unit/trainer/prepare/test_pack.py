from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.prepare.pack import one_each, pack
from finetune_trainer.prepare.split import held_out


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([], []),
        ([10], [[0]]),
        ([6, 4, 5, 5], [[0, 1], [2, 3]]),
        ([3, 3, 3, 3], [[0, 1, 2], [3]]),
        ([7, 6, 3, 4], [[0, 2], [1, 3]]),
        ([8, 7, 2, 3], [[0, 2], [1, 3]]),
    ],
)
def test_each_sample_goes_into_the_fullest_row_that_holds_it(
    lengths: list[int], rows: list[list[int]]
) -> None:
    assert pack(lengths, 10) == rows


@given(st.lists(st.integers(1, 64), max_size=200))
@settings(max_examples=100)
def test_every_sample_stands_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = pack(lengths, 64)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[sample] for sample in row) <= 64 for row in rows)


def test_packing_wastes_little() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 400) for _ in range(2000)]
    rows = pack(lengths, 1024)
    assert len(rows) <= 1.03 * sum(lengths) / 1024


def test_a_sample_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="sample 1 of 11 tokens in rows of 10"):
        pack([3, 11], 10)


def test_without_packing_rows_are_the_samples_in_order() -> None:
    assert one_each([5, 9, 2]) == [[0], [1], [2]]


def keys(n: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    rng = random.Random(seed)
    return np.array([rng.getrandbits(64) for _ in range(n)], dtype=np.uint64)


def test_about_the_asked_for_share_is_held_out() -> None:
    assert 400 < sum(held_out(keys(10_000), 0.05)) < 600


def test_a_row_keeps_its_side_when_the_data_grows() -> None:
    small, large = keys(500), keys(5000)
    assert (large[:500] == small).all()
    assert (held_out(large, 0.1)[:500] == held_out(small, 0.1)).all()


def test_equal_rows_never_stand_on_both_sides() -> None:
    sides = held_out(np.tile(keys(300), 2), 0.2)
    assert 0 < sides.sum() < 300
    assert (sides[:300] == sides[300:]).all()


@pytest.mark.parametrize(
    ("rows", "fraction", "count"),
    [(0, 0.5, 0), (1, 0.5, 0), (10, 0.0, 0), (2, 0.0001, 1), (10, 0.0001, 1), (10, 0.999999, 9)],
)
def test_small_data_still_has_something_on_both_sides(
    rows: int, fraction: float, count: int
) -> None:
    assert sum(held_out(keys(rows), fraction)) == count
