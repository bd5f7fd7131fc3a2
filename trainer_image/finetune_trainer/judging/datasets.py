"""The rows that are scored and never trained on, and the scores of each of their sources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune_trainer.batches import Indices, PackedRow, PackedRows
from finetune_trainer.config import Data
from finetune_trainer.errors import BadData
from finetune_trainer.evaluate import Evaluation
from finetune_trainer.prepare.store import PackedDataset

MAX_SAMPLE = 64
"""Packed training rows that are scored beside the held-out ones."""
_SAMPLE = 0x5A
"""Sets the draw of those apart from the order of the epochs."""
MAX_TOLD = 16
"""Data sets that are told of; the totals are of all."""
_DIGITS = 6

Role = Literal["Eval", "General"]


@dataclass(frozen=True)
class ScoredRows:
    """Packed rows of one role."""

    role: Role
    rows: PackedRows
    names: tuple[str, ...] = ()
    """Of their sources."""
    sources: Indices | None = None
    """int64 [R]: the source of each row; None: they were packed by an older version, which mixed
    them."""


def sample_of(rows: PackedRows, count: int, seed: int) -> Sample:
    """The same rows in every attempt; no more than are held out, for it takes as long."""
    drawn = np.random.default_rng((seed, _SAMPLE)).permutation(len(rows))
    return Sample(rows, np.sort(drawn[: min(count, MAX_SAMPLE)]))


@dataclass
class Sample:
    """Some of the rows, as rows."""

    rows: PackedRows
    chosen: Indices

    def __post_init__(self) -> None:
        self.num_supervised: Indices = self.rows.num_supervised[self.chosen]
        self.row_lengths: Indices = self.rows.row_lengths[self.chosen]
        self.num_pairs: Indices = self.rows.num_pairs[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def row(self, index: int) -> PackedRow:
        return self.rows.row(int(self.chosen[index]))


@dataclass(frozen=True)
class Scored:
    """What one evaluation found."""

    held: tuple[ScoredRows, Evaluation]
    general: tuple[ScoredRows, Evaluation] | None
    on_train: float | None
    """Loss on the sample of training rows."""

    @property
    def numbers(self) -> dict[str, float]:
        """As ``metrics`` has them."""
        result = self.held[1]
        numbers = {
            "evalLoss": result.loss,
            "perplexity": result.perplexity,
            "tokenAccuracy": result.accuracy,
        }
        if self.on_train is not None:
            gap = result.loss - self.on_train
            numbers |= {"trainSampleLoss": self.on_train, "generalizationGap": gap}
        if self.general is not None:
            general = self.general[1]
            numbers |= {"generalLoss": general.loss, "generalPerplexity": general.perplexity}
        return numbers

    @property
    def seconds(self) -> float:
        """Without the sample of training rows."""
        return self.held[1].seconds + (self.general[1].seconds if self.general else 0.0)


def open_scored(folder: Path, data: Data) -> list[ScoredRows]:
    """Held-out and general rows of the prepared data ``folder``, those that the job has.

    Raises ``BadData`` where they cannot be read.
    """
    wanted: list[tuple[Role, str, tuple[str, ...]]] = [
        ("Eval", "eval", tuple(source.name for source in data.eval or data.train))
    ]
    if data.general:
        wanted.append(("General", "general", tuple(source.name for source in data.general)))
    found = []
    for role, name, names in wanted:
        try:
            rows = PackedDataset(folder / name)
        except (OSError, ValueError) as error:
            raise BadData(
                f"the prepared data in {folder / name} cannot be read: {error}"
            ) from error
        found.append(ScoredRows(role, rows, names, rows.row_sources))
    return [each for each in found if len(each.rows)]


def entries(
    scored: Iterable[tuple[ScoredRows, Evaluation]], known: Iterable[dict[str, Any]], *, base: bool
) -> list[dict[str, Any]]:
    """The scores of each source that has supervised tokens, as ``metrics.datasets`` has them.

    ``known``: the entries so far, whose ``baseline`` stays; ``base``: these are the scores of the
    untouched model.
    """
    before = {(each["role"], each["name"]): each.get("baseline") for each in known}
    found: list[dict[str, Any]] = []
    for rows, result in scored:
        parts = result.parts if rows.sources is not None else ()
        for name, part in zip(rows.names, parts, strict=False):
            if not part.tokens:
                continue
            numbers = {"loss": _short(part.loss), "perplexity": _short(part.perplexity)}
            baseline = numbers if base else before.get((rows.role, name))
            found.append(
                {"role": rows.role, "name": name, "tokens": part.tokens, **numbers}
                | ({"baseline": baseline} if baseline else {})
            )
    return found[:MAX_TOLD]


def _short(value: float) -> float:
    """They go into a termination message, which is small."""
    return float(f"{value:.{_DIGITS}g}")
