"""The option that runs every parity cell instead of eight."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix", action="store_true", help="parity with plain torch over the whole matrix"
    )
