"""Options of the test run, and the one real cluster that its end-to-end tests share."""

from __future__ import annotations

import pytest

pytest_plugins = ["e2e.fixtures", "side_by_side", "pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-rows",
        type=int,
        default=3000,
        help="generated rows for the readers (test_reader_fuzz.py); 100000 take minutes",
    )
    parser.addoption(
        "--whole",
        action="store_true",
        help="the whole fault matrix (tests/faults) with its record instead of the short form",
    )
    parser.addoption(
        "--row",
        action="append",
        default=[],
        help="only this row of the fault matrix, also if this build has passed it before",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take long run with the whole fault matrix."""
    if config.getoption("--whole") and not config.getoption("--row"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-faults runs it"))
