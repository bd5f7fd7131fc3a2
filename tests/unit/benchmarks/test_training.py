"""The data of the training benchmark, how its peers share it, and its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_data
from benchmarks.training import OURS, Result, race
from benchmarks.training_peers import dealt, padded
from benchmarks.training_section import Board, _full_rows, _table
from finetune_trainer.prepare.store import PackedDataset


def test_lengths_have_a_long_tail() -> None:
    lengths = training_data.long_tailed(20_000).lengths
    assert np.median(lengths) == pytest.approx(120, rel=0.05)
    assert np.percentile(lengths, 95) == pytest.approx(600, rel=0.05)
    assert max(lengths) == 1024


def test_everybody_trains_on_the_same_samples_in_steps_of_as_many_tokens(tmp_path: Path) -> None:
    samples = training_data.long_tailed(400)
    laid = race(tmp_path / "race", samples, parameters=1, rows=6, micros=[1, 2, 4], steps=3)
    packed = PackedDataset(tmp_path / "race/data/train")
    assert packed.num_tokens == sum(samples.lengths)
    assert laid.samples_per_step % 8 == 0
    ours = laid.rows_per_step * packed.num_tokens / len(packed)
    theirs = laid.samples_per_step * np.mean(samples.lengths)
    assert theirs == pytest.approx(ours, rel=0.03)
    assert laid.rows_per_step in (6, 8, 10)
    again = training_data.load(tmp_path / "race/samples.npz")
    assert again.lengths == samples.lengths
    ids, targets = again.sample(7)
    assert len(ids) == samples.lengths[7]
    assert targets.mean() == pytest.approx(2 / 3, abs=1 / len(ids))
    assert len(PackedDataset(tmp_path / "race/data/eval")) == 0


def test_samples_of_a_batch_are_padded_and_masked() -> None:
    batch = padded([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
                    {"input_ids": [8], "labels": [8]}])  # fmt: skip
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_by_hand_ranks_are_balanced_by_tokens() -> None:
    shares = dealt([0, 1, 2, 3], [900, 100, 500, 450], 2)
    assert shares == [[0, 1], [2, 3]]


def board() -> Board:
    told = Board(micros={"packing": 4})
    for name, speed in ((OURS, 300), ("plain", 100), ("packing", 200), ("hand", 150)):
        told.runs[name] = [Result(speed + noise, 1.0, 10.8) for noise in (-9, 0, 90)]
        told.shares[name] = [speed / 400]
    return told


def test_the_table_compares_medians() -> None:
    told = _table("full fine-tuning", board())
    assert "### Full fine-tuning" in told
    assert "| **ours** | 1 packed row | 300 (291–390) | 3.00 × | 1.00 × | 0.75 |" in told
    assert "DeepSpeed, packing | 4 samples | 200 (191–290) | 2.00 × | 1.50 × | 0.50 |" in told
    assert "by plain 3.00 (goal ≥ 2.0); by its best mode 1.50 (goal ≥ 1.15)" in told
    assert "share of the ceiling 0.75 beside 0.38 by hand" in told


def test_full_rows_are_compared_with_plain() -> None:
    told = _full_rows({"LoRA": board(), "full": board()})
    assert "| LoRA | 300 (291–390) | 100 (91–190) | **3.00** | 0.75; 0.25 |" in told
    assert "| full | 300" in told
