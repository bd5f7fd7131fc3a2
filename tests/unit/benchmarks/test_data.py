"""Prepare and its peer do the same work, and the table says how they compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_models import save_tiny_model

from benchmarks import data_preparation
from benchmarks.data_preparation import Contestant, Run, write_rows
from benchmarks.data_section import tables


def test_the_peer_makes_of_the_rows_what_prepare_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_preparation, "LENGTH", 200)
    datasets.disable_progress_bars()
    model = save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", 150)
    made = {}
    for name, contestant in (("ours", data_preparation._ours), ("peer", data_preparation._peer)):
        (tmp_path / name).mkdir()
        spent, made[name] = contestant(tmp_path / "rows.jsonl", model, tmp_path / name)
        assert spent.seconds > 0
        assert spent.cpu_seconds > 0
    ours, peer = made["ours"], made["peer"]
    assert ours["near_duplicates"] == peer["near_duplicates"] > 0
    # Which rows are held out is told by another hash; all together are the same.
    assert ours["kept"] + ours["held_out"] == peer["kept"] + peer["held_out"] < 150
    assert ours["all_tokens"] == peer["all_tokens"]
    assert ours["all_targets"] == peer["all_targets"]


def test_the_table_tells_medians_ratio_and_how_memory_grows() -> None:
    def run(rows: int, seconds: float, mib: int) -> Run:
        made: dict[str, Any] = {
            "kept": 900, "held_out": 50, "near_duplicates": 7, "tokens": 90_000, "packed_rows": 100
        }  # fmt: skip
        return Run(rows, seconds, 2 * seconds, mib * 2**20, made)

    runs: dict[Contestant, list[Run]] = {
        "ours": [run(1000, 2.0, 100), run(1000, 50.0, 300), run(1000, 2.5, 110)],
        "peer": [run(1000, 5.0, 200), run(1000, 4.0, 220), run(1000, 6.0, 210)],
    }
    text = tables(runs, run(100_000, 200.0, 121))
    assert "| prepare: rows/s | ≥ 1.5 × the peer | 400 = 2.00 × 200 |" in text
    assert "| CPU seconds | | 5.0; the peer 10.0 |" in text
    assert "| memory at 1,000 rows | | 110 MiB; the peer 210 MiB |" in text
    assert "| memory at 100,000 rows | < 1.3 × that at 1,000 | 121 MiB = 1.10 × |" in text
    assert "100 tokens a row" in text and "| near duplicates | 7 | 7 |" in text
