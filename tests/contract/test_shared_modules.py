"""What both packages hold, word for word, because neither may import the other."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import finetune_operator.api
import finetune_trainer
from finetune_operator.api.crd import SHARED

OPERATORS = Path(finetune_operator.api.__file__).parent
TRAINERS = Path(finetune_trainer.__file__).parent


@pytest.mark.parametrize("name", SHARED)
def test_the_trainers_copy_is_the_operators_file(name: str) -> None:
    header, _, copy = (TRAINERS / name).read_text(encoding="utf-8").partition("\n")
    assert header.startswith("# Generated from operator/finetune_operator/api/")
    assert copy == (OPERATORS / name).read_text(encoding="utf-8")


def test_no_signature_is_left_at_home() -> None:
    here = {f"signatures/{path.name}" for path in (OPERATORS / "signatures").glob("*.py")}
    assert here == {name for name in SHARED if name.startswith("signatures/")}


@pytest.mark.parametrize("name", ["failures", "redaction", "signatures.table"])
def test_both_sides_mean_the_same(name: str) -> None:
    ours = importlib.import_module(f"finetune_operator.api.{name}")
    theirs = importlib.import_module(f"finetune_trainer.{name}")
    for table in ("FAILURE_CLASSES", "SECRETS", "SIGNATURES"):
        if hasattr(ours, table):
            mine, other = getattr(ours, table), getattr(theirs, table)
            assert [tuple(row) for row in mine] == [tuple(row) for row in other]
