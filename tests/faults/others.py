"""Tests of ``make test-faults`` that are no rows of the matrix, as a section of the record."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pytest

from benchmarks.record import RESULTS, replaced

TITLE = "Faults beside the matrix"
ROWS = "tests/faults/"
_TOLD = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--whole") and not hasattr(config, "workerinput"):
        config.stash[_TOLD] = told = {}
        config.pluginmanager.register(_Listener(told))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Of a run that came to its end: what was broken off, or asked for in part, is no record."""
    config = session.config
    narrowed = config.option.keyword or config.getoption("--row") or "::" in str(config.args)
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if (told := config.stash.get(_TOLD, {})) and ended and not narrowed:
        RESULTS.write_text(replaced(RESULTS.read_text(), TITLE, section(told)))


class _Listener:
    def __init__(self, told: dict[str, pytest.TestReport]) -> None:
        self._told = told

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "faults" not in report.keywords or report.nodeid.startswith(ROWS):
            return
        if report.when == "call" or (report.when == "setup" and report.failed):
            self._told[report.nodeid] = report


def section(told: Mapping[str, pytest.TestReport]) -> str:
    """The tests as Markdown, by file: a test's name says what it does to which job."""
    passed = sum(one.passed for one in told.values())
    seconds = sum(one.duration for one in told.values())
    lines = [
        f"Measured by `make test-faults` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores, "
        f"{passed} of {len(told)} passed, {seconds / 60:.0f} min.",
        "",
        "Real pods, Kubernetes 1.36.3 as before; in `real_trainer` and `of_trainer` with the real "
        "trainer. The\ninvariants are checked here, too, over the life of every job. With 0 s: "
        "beside the first of its file.",
        "",
        "| test | time | |",
        "|---|---|---|",
    ]
    for name, one in told.items():
        file, _, test = name.removeprefix("tests/e2e/").partition("::")
        what = test.removeprefix("test_").replace("_", " ").replace("|", "\\|")
        lines.append(f"| {file}: {what} | {one.duration:.0f} s | {one.outcome} |")
    return "\n".join(lines)
