from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_trainer.prepare.store import IGNORE, PackedDataset, Segment, write_split


def segment(sample: int, ids: list[int], targets: list[int]) -> Segment:
    return Segment(np.array(ids, dtype=np.int32), np.array(targets, dtype=np.uint8), sample)


@pytest.fixture
def dataset(tmp_path: Path) -> PackedDataset:
    rows = [
        [segment(7, [1, 2, 3], [1, 1, 0]), segment(4, [4, 5], [0, 1])],
        [segment(9, [6, 7], [0, 1])],
    ]
    write_split(tmp_path / "train", rows, num_tokens=7)
    return PackedDataset(tmp_path / "train")


def test_a_row_comes_back_as_it_was_written(dataset: PackedDataset) -> None:
    row = dataset.row(0)
    assert row.input_ids.tolist() == [1, 2, 3, 4, 5]
    assert row.segment_lengths == (3, 2)
    assert dataset.samples(0) == (7, 4)
    assert dataset.samples(1) == (9,)
    assert {row.input_ids.dtype, row.position_ids.dtype, row.labels.dtype} == {torch.int64}


def test_positions_restart_in_every_segment(dataset: PackedDataset) -> None:
    assert dataset.row(0).position_ids.tolist() == [0, 1, 2, 0, 1]


def test_trap_s02_the_first_token_of_a_segment_is_never_a_target(dataset: PackedDataset) -> None:
    row = dataset.row(0)
    assert row.labels.tolist() == [IGNORE, 2, IGNORE, IGNORE, 5]
    assert row.num_supervised == 2


def test_counts_are_known_without_reading_rows(dataset: PackedDataset) -> None:
    assert dataset.num_supervised.tolist() == [2, 1]
    assert dataset.row_lengths.tolist() == [5, 2]
    assert [row.num_supervised for row in dataset] == [2, 1]
    assert dataset.num_tokens == 7
    after_shift = [int((row.labels[1:] != IGNORE).sum()) for row in dataset]
    assert after_shift == dataset.num_supervised.tolist()


def test_a_split_may_be_empty(tmp_path: Path) -> None:
    write_split(tmp_path / "eval", [], num_tokens=0)
    dataset = PackedDataset(tmp_path / "eval")
    assert (len(dataset), dataset.num_tokens, list(dataset)) == (0, 0, [])


def test_a_row_outside_the_split_is_an_error(dataset: PackedDataset) -> None:
    with pytest.raises(IndexError, match="row 2 of 2"):
        dataset.row(2)


def test_a_plan_that_does_not_fit_the_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="planned were 3"):
        write_split(tmp_path / "train", [[segment(0, [1, 2], [0, 1])]], num_tokens=3)


def test_the_space_of_the_token_files_is_taken_before_they_are_filled(tmp_path: Path) -> None:
    """A write into a mapped hole of a full disk would end the process with SIGBUS."""

    def rows() -> Iterator[list[Segment]]:
        files = [tmp_path / "train" / name for name in ("input_ids.npy", "supervised.npy")]
        assert all(file.stat().st_blocks * 512 >= file.stat().st_size > 4000 for file in files)
        yield [segment(0, [1] * 8000, [1] * 8000)]

    write_split(tmp_path / "train", rows(), num_tokens=8000)
