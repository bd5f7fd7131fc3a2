"""Every mutation fits the tree, so that a survivor is never one that was not tried.

Without running any: ``make test-mutations`` does.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest
import yaml
from mutations.run import ROOT, Mutation

MUTATIONS = [
    Mutation(**entry)
    for entry in yaml.load((ROOT / "tests/mutations/mutations.yaml").read_text(), yaml.CSafeLoader)
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_text_is_there_once_and_what_takes_its_place_can_be_run(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.remove) == 1
    mutated = text.replace(mutation.remove, mutation.put)
    assert mutated != text
    if mutation.file.endswith(".py"):
        ast.parse(mutated)  # what no longer parses is noticed by every test


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_test_that_guards_it_exists(mutation: Mutation) -> None:
    file, _, test = mutation.test.partition("::")
    name = test.partition("::")[0].partition("[")[0]
    assert name in _names(file)


def test_no_two_have_one_name() -> None:
    counts = Counter(mutation.name for mutation in MUTATIONS)
    assert [name for name, count in counts.items() if count > 1] == []


@cache
def _names(file: str) -> set[str]:
    """Functions, classes and variables of a module."""
    body = ast.parse((ROOT / file).read_text()).body
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    targets = [target for each in body if isinstance(each, ast.Assign) for target in each.targets]
    names = {each.name for each in body if isinstance(each, defined)}
    return names | {target.id for target in targets if isinstance(target, ast.Name)}
