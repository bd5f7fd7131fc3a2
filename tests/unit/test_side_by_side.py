"""The marker ``side_by_side`` of this project's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import side_by_side

MODULE = """
import threading

import pytest

together = threading.Barrier(3)


@pytest.fixture(scope="module")
def place():
    yield "place"
    together.abort()


@pytest.fixture
def name(place):
    return f"name in {place}"


@pytest.mark.side_by_side
@pytest.mark.parametrize("number", [1, 2])
def test_number(number, name):
    together.wait(4)
    assert name == "name in place"
    assert number == 1, "two is wrong"


def test_alone():
    assert not [t for t in threading.enumerate() if t.name.startswith("side-by-side")]


@pytest.mark.side_by_side
def test_without_a_name(place):
    together.wait(4)
    raise OSError("its own end")
"""


@pytest.fixture
def copy(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "side_by_side.py").write_text(Path(side_by_side.__file__).read_text())
    pytester.makeini("[pytest]\nmarkers = side_by_side: at the same time\n")
    pytester.makepyfile(MODULE)
    return pytester


def test_they_run_together_and_each_gets_its_own_verdict(copy: pytest.Pytester) -> None:
    result = copy.runpytest_subprocess("-p", "side_by_side", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(["*two is wrong*", "*OSError: its own end"])


def test_one_alone_would_wait_for_the_others(copy: pytest.Pytester) -> None:
    copy.makepyfile(MODULE.replace("wait(4)", "wait(0.2)"))
    result = copy.runpytest_subprocess("-p", "no:cacheprovider", "-k", "number")
    result.assert_outcomes(failed=2)
