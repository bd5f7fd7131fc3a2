"""Ranks get equal work: costs of rows, and how they are dealt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.trainer.train.tiny import random_rows, tiny_llama, write_rows

from finetune_trainer.batches import share_of
from finetune_trainer.costs import Costs, costs_of
from finetune_trainer.prepare.store import PackedDataset


def test_a_row_costs_by_tokens_targets_and_pairs(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [3, 4, 5], [1]]))
    data = PackedDataset(tmp_path / "rows")
    assert data.num_pairs.tolist() == [78, 6 + 10 + 15, 1]
    targets = data.num_supervised
    assert Costs(100, 10, 1).of(data).tolist() == [
        1200 + 10 * targets[0] + 78,
        1200 + 10 * targets[1] + 31,
        100 + 10 * targets[2] + 1,
    ]


def test_costs_come_from_the_model_s_shape() -> None:
    found = costs_of(tiny_llama())
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    assert found == Costs(2 * layer, 64 * 32, 3 * 2 * 2 * 32)


def test_tied_weights_are_the_output_layer_s_alone() -> None:
    assert costs_of(tiny_llama(tie_word_embeddings=True)) == costs_of(tiny_llama())


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(2, 4), st.integers(1, 3)
)
def test_no_pass_differs_by_more_than_its_costliest_row(
    costs: list[int], world_size: int, micro: int
) -> None:
    rows, each = np.arange(len(costs)), np.array(costs)
    shares = [
        share_of(rows, each, rank=rank, world_size=world_size, micro_batch_size=micro)
        for rank in range(world_size)
    ]
    for parts in list(zip(*shares, strict=True))[:-1]:  # the last one may have too few rows
        work = [int(each[part].sum()) for part in parts]
        assert max(work) - min(work) <= max(int(each[part].max()) for part in parts)


def test_long_rows_meet_long_rows_and_no_rank_has_all_of_the_longer_ones() -> None:
    costs = np.array([1, 9, 8, 2, 7, 3, 6, 4])
    shares = [
        share_of(np.arange(8), costs, rank=rank, world_size=2, micro_batch_size=1)
        for rank in (0, 1)
    ]
    work = [[int(costs[part].sum()) for part in share] for share in shares]
    assert [sorted(pair) for pair in zip(*work, strict=True)] == [[8, 9], [6, 7], [3, 4], [1, 2]]
    assert abs(sum(work[0]) - sum(work[1])) <= 1


def test_one_rank_takes_the_rows_in_their_order() -> None:
    share = share_of(
        np.array([5, 3, 8, 1, 9]), np.array([1, 2, 3, 4, 5]), rank=0, world_size=1,
        micro_batch_size=2,
    )  # fmt: skip
    assert [part.tolist() for part in share] == [[5, 3], [8, 1], [9]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_dealing_is_a_function_of_rows_and_costs(world_size: int) -> None:
    rows, costs = np.arange(20), np.array([3, 1, 2, 2, 1] * 4)
    first, again = (
        [
            [part.tolist() for part in
             share_of(rows, costs, rank=rank, world_size=world_size, micro_batch_size=2)]
            for rank in range(world_size)
        ]
        for _ in range(2)
    )  # fmt: skip
    assert first == again
