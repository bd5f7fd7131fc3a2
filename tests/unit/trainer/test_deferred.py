"""Modules that are put off: here a package ``slow`` whose import can be seen."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from finetune_trainer.deferred import Deferral, DeferredModule, Deferring

SLOW = """
import {package}.inside
from {package}.inside import Thing, twice

VALUE = 7
"""
INSIDE = """
class Thing:
    size = 3

def twice(number):
    return 2 * number
"""
FREE = "import {package}\nLIMIT = 5\n"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"slow_{abs(hash(tmp_path))}"
    folder = tmp_path / name
    folder.mkdir()
    for file, text in {"__init__": SLOW, "inside": INSIDE, "free": FREE}.items():
        (folder / f"{file}.py").write_text(text.format(package=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for known in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[known]


def put_off(monkeypatch: pytest.MonkeyPatch, slow: str, **deferral: Any) -> ModuleType:
    monkeypatch.setattr(sys, "meta_path", [Deferring({slow: Deferral(**deferral)}), *sys.meta_path])
    return importlib.import_module(slow)


def is_waiting(module: ModuleType) -> bool:
    return type(module) is DeferredModule


def test_importing_it_executes_nothing_and_looking_for_a_value_does(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    module = put_off(monkeypatch, slow)
    assert is_waiting(module)
    assert not hasattr(module, "__wrapped__")  # as tools ask that walk through all modules
    assert is_waiting(module)
    assert module.VALUE == 7
    assert not is_waiting(module)
    assert sys.modules[slow] is module
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other


def test_a_function_is_called_and_a_class_is_what_it_is(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    module = put_off(monkeypatch, slow, names={"Thing", "twice"}.__contains__)
    thing, twice = module.Thing, module.twice
    assert not isinstance(3, thing)
    assert not issubclass(int, thing)
    assert (thing | None) is (None | thing)
    assert is_waiting(module), "none of these needs it: it cannot have an instance yet"

    assert twice(4) == 8
    assert not is_waiting(module)
    assert thing.size == 3
    assert isinstance(module.Thing(), thing)
    assert isinstance(thing(), module.Thing)

    class Special(thing):  # type: ignore[misc,valid-type]
        pass

    assert issubclass(Special, module.Thing)
    assert issubclass(Special, thing)


def test_what_is_given_instead_holds_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    module = put_off(monkeypatch, slow, instead={"VALUE": 0})
    assert module.VALUE == 0
    assert module.Thing.size == 3
    assert module.VALUE == 7


def test_a_module_in_it_brings_it_along_unless_it_stands_alone(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    module = put_off(monkeypatch, slow, alone=("free",))
    assert module.free.LIMIT == 5
    assert importlib.import_module(f"{slow}.free") is module.free
    assert is_waiting(module)

    inside = importlib.import_module(f"{slow}.inside")
    assert not is_waiting(module)
    assert inside is sys.modules[f"{slow}.inside"]
    assert inside.Thing is module.Thing, "it was not executed twice"


def test_a_module_in_it_may_be_put_off_as_long_as_it_is_itself(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    inside = f"{slow}.inside"
    off = {slow: Deferral(names="Thing".__eq__), inside: Deferral(names="Thing".__eq__)}
    monkeypatch.setattr(sys, "meta_path", [Deferring(off), *sys.meta_path])
    module = importlib.import_module(inside)
    thing = module.Thing
    assert is_waiting(module) and is_waiting(sys.modules[slow])

    assert thing.size == 3
    assert not is_waiting(module) and not is_waiting(sys.modules[slow])
    assert type(module.Thing) is type
    assert sys.modules[slow].Thing is module.Thing, "the package was not given a stand-in"


def test_a_module_in_it_is_not_put_off_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    free = f"{slow}.free"
    off = {slow: Deferral(), free: Deferral()}
    monkeypatch.setattr(sys, "meta_path", [Deferring(off), *sys.meta_path])
    assert importlib.import_module(slow).VALUE == 7
    assert not is_waiting(importlib.import_module(free))


def test_others_come_first_where_their_names_must_be_real(
    monkeypatch: pytest.MonkeyPatch, slow: str, tmp_path: Path
) -> None:
    user = f"{slow}_user"
    (tmp_path / f"{user}.py").write_text(f"from {slow} import Thing\nfound = type(Thing)\n")
    off = {slow: Deferral(names={"Thing"}.__contains__), user: Deferral(first=(slow,))}
    monkeypatch.setattr(sys, "meta_path", [Deferring(off), *sys.meta_path])
    importlib.import_module(slow)
    try:
        assert importlib.import_module(user).found is type
    finally:
        sys.modules.pop(user)


def test_a_module_is_changed_right_after_its_import(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    finder = Deferring({}, {f"{slow}.inside": lambda module: setattr(module, "twice", str)})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert importlib.import_module(slow).twice(4) == "4"
