"""What a recovery is measured by, from the files that a job leaves."""

from __future__ import annotations

from pathlib import Path

from benchmarks.recovery import ColdStart, Recovery, lines_with
from benchmarks.recovery_section import tables


def test_the_table_compares_with_the_cold_start_as_it_was_and_without_its_baseline() -> None:
    cold = [ColdStart(1.0, 10.0, baseline, 4.0) for baseline in (5.0, 6.0, 90.0)]
    back = [Recovery(lost, 1.0, 2.0, 5.0, 1.0, 6.0, 3.0) for lost in (1, 0, 1)]
    told = tables(cold, back)
    assert "| death of a pod → next step done | 18.0 s | 0.86; 1.20 of" in told
    assert "Steps trained again: 1, 0, 1." in told
    assert "| → rank 0's container runs | 1.00 s |" in told
    assert "| → the untouched model is scored | 6.00 s |" in told


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    assert lines_with(tmp_path, "loss") == []
    (tmp_path / "metrics.jsonl").write_text('{"evalLoss": 2}\n{"loss": 1}\n{"loss": 3')
    assert lines_with(tmp_path, "loss") == [{"loss": 1}]
