"""The facts of ``facts.yaml``, the one readable source of the example's data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

FACTS_YAML = Path(__file__).with_name("facts.yaml")


class QuestionSet(StrEnum):
    """Held-out wordings, one of each for every fact."""

    TEST = "test"
    """Frozen: what the published figures are measured on."""
    DEV = "dev"
    """What data and settings are chosen by."""


@dataclass(frozen=True)
class Fact:
    """One thing to learn: ``answer`` is trained, ``key`` is what a right answer must contain."""

    id: str
    key: str
    answer: str
    ask: tuple[str, ...]
    held_out: Mapping[QuestionSet, str]


@dataclass(frozen=True)
class FactBook:
    system: str
    """System message of every row: the model answers in this role."""
    facts: tuple[Fact, ...]
    asked: QuestionSet = QuestionSet.TEST
    """The held-out questions that this book asks."""


def load_facts(path: Path = FACTS_YAML) -> FactBook:
    """Read the facts in the order of the file."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return FactBook(
        system=document["system"],
        facts=tuple(
            Fact(
                id=entry["id"],
                key=entry["key"],
                answer=entry["answer"],
                ask=tuple(entry["ask"]),
                held_out={wording: entry[wording] for wording in QuestionSet},
            )
            for entry in document["facts"]
        ),
    )
