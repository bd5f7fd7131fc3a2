"""Options of the test run, and the real clusters that its end-to-end tests share."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from typing import Any

import browser
import loaded_once
import pytest
from cluster_scheduling import ON_A_CLUSTER, OneForEachCluster, scope_of
from hypothesis import Phase, settings
from xdist.remote import Producer
from xdist.scheduler import Scheduling

from finetune_trainer import lean_imports
from local_cluster.debian import prepare_host
from local_cluster.errors import LocalClusterError

# A busy machine is slow at any moment, and no property is about time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# For tests/mutations: that a property breaks is all that counts, not its smallest example.
settings.register_profile("mutations", deadline=None, phases=[Phase.explicit, Phase.generate])

pytest_plugins = ["e2e.fixtures", "faults.others", "side_by_side", "pytester"]


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
    parser.addoption(
        "--install-chromium",
        action="store_true",
        help="Debian's, where there is none, instead of leaving out what pages look like",
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
    """The clusters' tests come first; those that take long, with the whole fault matrix."""
    items.sort(key=lambda item: (scope_of(item.nodeid), bool(item.get_closest_marker("last"))))
    if config.getoption("--whole") and not config.getoption("--row"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-faults runs it"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A cluster is waited for as long as it takes: what is waited for there has its own bound."""
    if item.nodeid.startswith(ON_A_CLUSTER):
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def one_identifier() -> None:
    loaded_once.keep_identifier()


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> str:
    """The browser in which the project's pages are looked at."""
    if browser.find() is None and pytestconfig.getoption("--install-chromium"):
        try:
            prepare_host(["chromium"])
        except LocalClusterError as error:
            pytest.skip(str(error))
    return browser.find() or pytest.skip(browser.MISSING)


@pytest.fixture
def all_of_the_cluster(request: pytest.FixtureRequest) -> bool:
    """Whether all tests of this test's cluster were selected, and none has failed so far."""
    scope, root = scope_of(request.node.nodeid), request.config.rootpath
    there = {
        name
        for path in root.glob("tests/e2e/test_*.py")
        if scope_of(name := path.relative_to(root).as_posix()) == scope
    }
    selected = {item.nodeid.partition("::")[0] for item in request.session.items}
    narrowed = request.config.option.keyword or any("::" in arg for arg in request.config.args)
    return there <= selected and not narrowed and not request.session.testsfailed


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return OneForEachCluster(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """Where processes share the cores, threads of torch's own only wait for one another."""
    if hasattr(config, "workerinput") and "not e2e" in config.option.markexpr:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "not gang" in config.option.markexpr:
        os.environ["WITHOUT_GANGS"] = "run_gang refuses"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some unit tests wait, too."""
    return (os.cpu_count() or 1) + 1
