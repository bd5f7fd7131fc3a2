"""Options of the test run, and the one real cluster that its end-to-end tests share."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import Phase, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

from finetune_trainer import lean_imports

# For tests/mutations: that a property breaks is all that counts, not its smallest example.
settings.register_profile("mutations", phases=[Phase.explicit, Phase.generate])

ON_THE_CLUSTER = ("tests/e2e/", "tests/faults/")

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Tests import torch as the trainer does: without its compiler, which is half of the time."""
    lean_imports.begin()
    try:
        return (yield)
    finally:
        lean_imports.end()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The cluster's tests come first; those that take long, with the whole fault matrix."""
    items.sort(key=lambda item: not item.nodeid.startswith(ON_THE_CLUSTER))
    if config.getoption("--whole") and not config.getoption("--row"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-faults runs it"))


class OneForTheCluster(LoadFileScheduling):
    """One process runs all tests that use the cluster, which mostly wait; others run the rest."""

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith(ON_THE_CLUSTER) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return OneForTheCluster(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some unit tests wait, too."""
    return (os.cpu_count() or 1) + 1
