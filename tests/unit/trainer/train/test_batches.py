"""Which rows a step sees, how ranks share them, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.trainer.train.tiny import random_rows, row_lengths, write_rows

from finetune_trainer.batches import (
    IGNORE,
    Windows,
    collate,
    epoch_order,
    few_lengths,
    share_of,
)
from finetune_trainer.prepare.store import PackedDataset


@pytest.fixture
def data(tmp_path: Path) -> PackedDataset:
    write_rows(tmp_path / "train", random_rows(1, row_lengths(1, 11)))
    return PackedDataset(tmp_path / "train")


def test_trap_22_every_epoch_sees_each_row_once_in_an_order_of_its_own(data: PackedDataset) -> None:
    windows = Windows(data, seed=7, global_batch_size=4)
    assert windows.per_epoch == 3
    epochs = [
        np.concatenate([windows[step].rows for step in range(epoch * 3, epoch * 3 + 3)]).tolist()
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [windows[step].epoch for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_a_window_is_a_function_of_seed_and_step_alone(data: PackedDataset) -> None:
    forwards = [Windows(data, seed=7, global_batch_size=4)[step].rows.tolist() for step in range(9)]
    epoch_order.cache_clear()
    again = Windows(data, seed=7, global_batch_size=4)
    backwards = [again[step].rows.tolist() for step in reversed(range(9))]
    assert backwards == forwards[::-1]
    assert Windows(data, seed=8, global_batch_size=4)[0].rows.tolist() != forwards[0]


def test_trap_03_the_short_last_window_counts_its_own_targets(data: PackedDataset) -> None:
    window = Windows(data, seed=7, global_batch_size=4)[2]
    assert len(window.rows) == 3
    assert window.supervised == sum(data.row(int(row)).num_supervised for row in window.rows)
    assert window.tokens == sum(len(data.row(int(row)).input_ids) for row in window.rows)


@pytest.mark.parametrize(("step", "rows"), [(0, 0), (1, 4), (2, 8), (3, 11), (4, 15), (6, 22)])
def test_the_cursor_counts_rows_over_epochs(data: PackedDataset, step: int, rows: int) -> None:
    assert Windows(data, seed=7, global_batch_size=4).samples_before(step) == rows


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_trap_s20_ranks_share_all_rows_in_equally_many_micro_batches(
    rows: int, world_size: int, micro_batch_size: int
) -> None:
    numbers = np.arange(100, 100 + rows)
    shares = [
        share_of(
            numbers,
            numbers % 7,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
        )
        for rank in range(world_size)
    ]
    dealt = [int(row) for share in shares for part in share for row in part]
    assert sorted(dealt) == numbers.tolist()
    assert len({len(share) for share in shares}) == 1
    assert all(len(part) <= micro_batch_size for share in shares for part in share)


def test_trap_07_all_tensors_of_a_batch_share_one_length_and_padding_stands_apart(
    data: PackedDataset,
) -> None:
    rows = [data.row(0), data.row(3)]
    batch = collate(rows)
    longest = max(len(row.input_ids) for row in rows)
    assert batch.input_ids.shape == batch.position_ids.shape == batch.labels.shape == (2, longest)
    for index, row in enumerate(rows):
        used = len(row.input_ids)
        assert torch.equal(batch.labels[index, :used], row.labels)
        assert batch.labels[index, used:].eq(IGNORE).all()
        assert batch.position_ids[index, used:].tolist() == list(range(longest - used))


def test_rounded_batches_have_few_lengths_and_hold_the_same(data: PackedDataset) -> None:
    assert [few_lengths(n) for n in (1, 16, 31, 33, 65, 1000, 1024)] == [
        *(1, 16, 31),
        *(34, 68, 1024, 1024),
    ]
    assert len({few_lengths(n) for n in range(512, 1024)}) == 17
    assert all(n <= few_lengths(n) <= n * 1.07 for n in range(1, 5000))
    rows = [data.row(0), data.row(3)]
    plain, rounded = collate(rows), collate(rows, rounded=True)
    used = plain.input_ids.shape[1]
    assert rounded.input_ids.shape[1] == few_lengths(used)
    assert torch.equal(rounded.input_ids[:, :used], plain.input_ids)
    assert torch.equal(rounded.labels[:, :used], plain.labels)
    assert rounded.labels[:, used:].eq(IGNORE).all()


def test_no_rows_make_a_row_that_weighs_nothing() -> None:
    batch = collate([])
    assert batch.input_ids.shape == (1, 1)
    assert batch.labels.eq(IGNORE).all()
