"""Options of the test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-rows",
        type=int,
        default=3000,
        help="generated rows for the readers (test_reader_fuzz.py); 100000 take minutes",
    )
