"""The table of predicted and measured memory, and what counts as a process's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.memory import Outcome, Watched, memory_of
from benchmarks.memory_section import CALIBRATION, HELD_OUT, text

TAKES = 300_000_000


def test_the_table_names_the_worst_and_how_many_are_within_the_goal() -> None:
    parts = {"logits": 2_000_000_000, "runtime": 500_000_000}
    found = [
        Outcome("near", 10_000_000, 2_200_000_000, 2_000_000_000, parts),
        Outcome("far", 20_000_000, 1_600_000_000, 2_000_000_000, parts),
    ]

    table = text(found)

    assert "| near | 10 M | 2.00 GB | 2.20 GB | +10% | logits 2.00 GB, runtime 0.50 GB |" in table
    assert "**1 of 2** within 15%; the worst is far: -20%." in table


def test_nothing_that_was_adjusted_on_is_judged_by() -> None:
    judged = [configuration.model for configuration in HELD_OUT]

    assert len(HELD_OUT) >= 12
    assert all(configuration.model not in judged for configuration in CALIBRATION)
    assert len({configuration.name for configuration in HELD_OUT}) == len(HELD_OUT)


def test_a_short_peak_of_the_rank_counts_and_mapped_files_do_not() -> None:
    rank = f"import time; b'x' * {TAKES}; time.sleep(0.3)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    process = subprocess.Popen([sys.executable, "-c", launcher])

    peak = Watched(process).peak()

    assert TAKES < peak < TAKES + 60_000_000


def test_a_process_that_has_ended_has_no_memory() -> None:
    assert memory_of(Path("/proc/0")) == {}
