"""Paired prompts: how much likelier a model finds an answer with one term than with another.

The log-likelihood of an answer is the sum over its tokens. Both answers of a pair differ in one
term, so their difference is what the model makes of it; the tuned model's beside the untouched
one's is what training made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.batches import PackedRows
from finetune_trainer.config import PairedPrompts
from finetune_trainer.errors import BadData
from finetune_trainer.evaluate import Evaluation
from finetune_trainer.judging.table import read_rows, write_rows
from finetune_trainer.prepare.store import PackedDataset

PAIRED = "paired"
"""Folder of their rows in the prepared data."""
TABLE = "paired-prompts.jsonl"
"""Differences pair by pair, beside the table of answers."""
BASE = "paired-base.jsonl"
"""Those of the untouched model, in the folder of all attempts."""
_TERM = "{term}"
_DIGITS = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sentence:
    """One side of a pair."""

    field: str
    """Its place in the FineTuneJob."""
    prompt: str
    answer: str


@dataclass(frozen=True)
class PairedRows:
    wish: tuple[PairedPrompts, ...]
    rows: PackedRows
    """Two for each pair, in the order of ``sentences``."""
    folder: Path
    """Of the untouched model's differences."""


def sentences(wish: Sequence[PairedPrompts]) -> Iterator[Sentence]:
    """Both sides of each pair, list by list."""
    for number, each in enumerate(wish):
        for place, pair in enumerate(each.prompts):
            for term in each.terms:
                yield Sentence(
                    f"spec.evaluation.pairedPrompts[{number}].prompts[{place}]",
                    pair.prompt.replace(_TERM, term),
                    pair.answer.replace(_TERM, term),
                )


def open_paired(wish: Sequence[PairedPrompts], workspace: Path) -> PairedRows | None:
    """None where the job has none. Raises ``BadData`` where they cannot be read."""
    if not wish:
        return None
    try:
        rows = PackedDataset(workspace / "data" / PAIRED)
    except (OSError, ValueError) as error:
        raise BadData(f"the prepared paired prompts cannot be read: {error}") from error
    return PairedRows(tuple(wish), rows, workspace / "answers")


def differences(result: Evaluation) -> list[float]:
    """Of each pair: log-likelihood with the first term less that with the second, in nats.
    ``result``: of the rows, each a group of its own."""
    likelihood = [-part.loss * part.tokens for part in result.parts]
    return [first - second for first, second in zip(likelihood[::2], likelihood[1::2], strict=True)]


def entries(
    wish: Sequence[PairedPrompts],
    found: Sequence[float],
    known: Sequence[dict[str, Any]],
    *,
    base: bool,
) -> list[dict[str, Any]]:
    """Each list in numbers, as ``metrics.pairedPrompts`` has them. ``known``: those so far, whose
    ``baseline`` stays; ``base``: these are the untouched model's."""
    before = {each["name"]: each.get("baseline") for each in known}
    told, at = [], 0
    for each in wish:
        own = found[at : at + len(each.prompts)]
        at += len(each.prompts)
        numbers = {
            "difference": _mean(own),
            "absoluteDifference": _mean([abs(value) for value in own]),
            "firstLikelier": _mean([float(value > 0) for value in own]),
        }
        baseline = numbers if base else before.get(each.name)
        told.append(
            {"name": each.name, "pairs": len(own), **numbers}
            | ({"baseline": baseline} if baseline else {})
        )
    return told


def table(
    wish: Sequence[PairedPrompts],
    base: Sequence[dict[str, Any]] | None,
    tuned: Sequence[float],
) -> list[dict[str, Any]]:
    """A row for each pair. ``base`` is None where the untouched model was not asked."""
    pairs = [(each, pair) for each in wish for pair in each.prompts]
    return [
        {
            "list": each.name,
            "terms": list(each.terms),
            "prompt": pair.prompt,
            "answer": pair.answer,
            **({"base": base[number]["difference"]} if base else {}),
            "tuned": tuned[number],
        }
        for number, (each, pair) in enumerate(pairs)
    ]


def write(
    rows: PairedRows, found: Sequence[float], attempt: Path | None, *, with_base: bool
) -> None:
    """Every pair into the folder of the attempt; of the untouched model (``attempt`` None) into
    that of all attempts. A table that cannot be written harms no training."""
    path = rows.folder / BASE
    try:
        if attempt is None:
            write_rows(path, [{"difference": value} for value in found])
            return
        base = read_rows(path, len(found)) if with_base else None
        write_rows(attempt / TABLE, table(rows.wish, base, found))
    except OSError as error:
        log.warning("the paired prompts cannot be written: %s", error)


def _mean(values: Sequence[float]) -> float:
    return float(f"{sum(values) / len(values):.{_DIGITS}g}")
