"""The matrix in the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults import others
from faults.matrix import Tally, load
from faults.report import section

ONE = Tally(
    row="kills", fault="killed at random", holds="no violation", build="x", date="2026-11-26",
    seconds=90.0, kills=200, note="8 jobs", jobs=40, gangs=300, restarts=220, steps_lost=200,
)  # fmt: skip


def test_a_violation_is_counted_and_told() -> None:
    other = replace(ONE, row="twice", kills=1, violations=["two gangs"])
    text = section([ONE, other])
    assert "2 rows in 3 min, 201 kills, 1 violations." in text
    assert "| kills | killed at random | 200 | 40 | 300 | 220 | 200 | 0 | 90 s | 8 jobs |" in text
    assert text.endswith("twice: two gangs")


def test_every_row_says_what_it_does_and_what_must_hold() -> None:
    rows = load()
    assert len(rows) >= 8
    assert all(row.name == name and row.fault and row.holds for name, row in rows.items())
    assert any(row.short for row in rows.values())


@pytest.mark.parametrize(("keywords", "there"), [({"faults": 1}, True), ({"e2e": 1}, False)])
def test_tests_that_are_no_rows_are_told_with_how_they_ended(
    keywords: dict[str, int], there: bool
) -> None:
    told: dict[str, pytest.TestReport] = {}
    listener = others._Listener(told)
    for name, when, outcome in (
        ("tests/faults/test_matrix.py::test_row[kills]", "call", "passed"),
        ("tests/e2e/test_kueue.py::test_an_evicted_gang_waits[a|b]", "setup", "passed"),
        ("tests/e2e/test_kueue.py::test_an_evicted_gang_waits[a|b]", "call", "passed"),
        ("tests/e2e/test_kueue.py::test_no_cluster", "setup", "failed"),
    ):
        listener.pytest_runtest_logreport(
            pytest.TestReport(
                name,
                ("", 0, ""),
                keywords,
                outcome,
                None,
                when,
                duration=90.4,  # type: ignore[arg-type]
            )
        )
    if not there:
        assert not told
        return
    text = others.section(told)
    assert "1 of 2 passed, 3 min." in text
    assert "| test_kueue.py: an evicted gang waits[a\\|b] | 90 s | passed |" in text
    assert text.endswith("| test_kueue.py: no cluster | 90 s | failed |")


@pytest.mark.parametrize(
    ("status", "keyword", "written"),
    [(0, "", True), (1, "", True), (2, "", False), (0, "k", False)],
)
def test_a_run_that_was_broken_off_or_narrowed_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, keyword: str, written: bool
) -> None:
    record = tmp_path / "results.md"
    record.write_text("# Record\n")
    monkeypatch.setattr(others, "RESULTS", record)
    one = SimpleNamespace(passed=True, duration=1.0, outcome="passed")
    config = SimpleNamespace(
        option=SimpleNamespace(keyword=keyword),
        args=["tests"],
        getoption=lambda _: [],
        stash={others._TOLD: {"tests/e2e/test_kueue.py::test_it": one}},
    )
    session: Any = SimpleNamespace(config=config)
    others.pytest_sessionfinish(session, status)
    assert ("| test_kueue.py: it | 1 s | passed |" in record.read_text()) is written
