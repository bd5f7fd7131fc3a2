"""Every trap is proved by a test that is named after it, and the test by a mutation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = [f"{n:02}" for n in range(1, 41)] + [f"s{n:02}" for n in range(1, 23)]
TRAPS: dict[str, list[str]] = yaml.load(
    (Path(__file__).parent / "traps.yaml").read_text(), yaml.CSafeLoader
)
MUTATIONS = yaml.load((ROOT / "tests/mutations/mutations.yaml").read_text(), yaml.CSafeLoader)
MUTATED = {mutation["test"].partition("[")[0] for mutation in MUTATIONS}


def test_every_trap_is_there_and_no_other() -> None:
    assert list(TRAPS) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_the_tests_of_a_trap_exist_under_that_name(number: str) -> None:
    _, *tests = TRAPS[number]
    assert tests
    for test in tests:
        path, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test


@pytest.mark.parametrize("number", NUMBERS)
def test_a_test_is_named_after_the_trap_and_fails_without_the_behaviour(number: str) -> None:
    _, *tests = TRAPS[number]
    named = {test for test in tests if number in numbers_in(test)}
    assert named
    assert MUTATED & named


def numbers_in(test: str) -> list[str]:
    """Of the traps that a test is named after: ``test_traps_15_16_s14_damaged…``."""
    name = test.rpartition("::")[2]
    found = re.match(r"test_traps?((?:_and|_s?\d\d)+)_", name)
    return re.findall(r"s?\d\d", found[1]) if found else []


def test_a_test_in_this_folder_is_named_after_its_traps() -> None:
    listed = {test for _, *tests in TRAPS.values() for test in tests}
    for path in Path(__file__).parent.glob("test_trap*.py"):
        for name in re.findall(r"^def (test_traps?_\w+)\(", path.read_text(), re.MULTILINE):
            assert f"tests/traps/{path.name}::{name}" in listed, name
            assert all(number in path.name for number in numbers_in(name)), name
