"""The rows that are trained on, as the report counts them, and their texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import datasets  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.lists import column_of
from finetune_trainer.prepare.splits import Split
from finetune_trainer.prepare.tokenize import Tokenized

Ints = npt.NDArray[np.int64]
_BATCH = 1000


@dataclass(frozen=True)
class Side:
    """One side of the data: its samples and what became of them as tokens."""

    split: Split
    tokenized: Tokenized


@dataclass(frozen=True)
class Text:
    """The text of one row."""

    at: int
    """Its position in ``Rows``."""
    read: str
    learnt: str
    """What ``spec.data.lossOn`` makes a target, system prompt left out; before it is cut at the
    sequence length."""


@dataclass(frozen=True)
class Rows:
    """Rows of one side that became tokens, as an epoch has them. The arrays are in the order of the
    samples."""

    samples: datasets.Dataset
    numbers: Ints
    """The sample behind each row."""
    tokens: Ints
    supervised: Ints

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers of the samples, by row."""
        values: npt.NDArray[Any] = column_of(self.samples, name)[self.numbers]
        return values

    def fair(self, count: int) -> Ints:
        """Positions of at most ``count`` rows, by a hash of their content: the same ones whatever
        the order of the files, and nearly the same when the data grows."""
        return np.argsort(self.column("key"), kind="stable")[:count].copy()

    def batches(self, columns: list[str], at: Ints | None = None) -> Iterator[dict[str, list[Any]]]:
        """The named columns of the samples, a thousand rows at a time, by position."""
        samples = self.samples.select_columns(columns)
        numbers = self.numbers if at is None else self.numbers[at]
        for start in range(0, len(numbers), _BATCH):
            yield samples[numbers[start : start + _BATCH]]

    def texts(
        self, loss_on: Literal["Assistant", "Response", "All"], at: Ints | None = None
    ) -> Iterator[Text]:
        """The texts of all rows, or of those at the given positions."""
        positions = iter(range(len(self)) if at is None else at.tolist())
        for batch in self.batches(["messages", "text"], at):
            for messages, text in zip(batch["messages"], batch["text"], strict=True):
                yield Text(next(positions), *_told_apart(messages, text, loss_on))


def source_of_segments(split: Split, tokenized: Tokenized) -> Ints:
    """int64 [S]: the number of the source that each segment is of."""
    return column_of(split.samples, "source")[tokenized.samples].astype(np.int64)


def rows_of(side: Side) -> Rows:
    """Segments of one sample are one row, and a row that an epoch draws twice is two."""
    tokenized = side.tokenized
    _, first, copies = np.unique(tokenized.kept, return_index=True, return_counts=True)
    numbers, start, of_segment = np.unique(
        tokenized.samples[first], return_index=True, return_inverse=True
    )
    often = copies[start]
    tokens = _summed(of_segment, tokenized.lengths[first], len(numbers))
    supervised = _summed(of_segment, tokenized.targets()[first], len(numbers))
    return Rows(
        side.split.samples,
        np.repeat(numbers, often),
        np.repeat(tokens, often),
        np.repeat(supervised, often),
    )


def _summed(of_segment: Ints, counts: npt.NDArray[Any], length: int) -> Ints:
    return np.bincount(of_segment, weights=counts, minlength=length).astype(np.int64)


def _told_apart(messages: list[dict[str, str]], text: str, loss_on: str) -> tuple[str, str]:
    """(text that is only read, text that is learnt)."""
    if not messages:
        return "", text
    turns = [turn for turn in messages if turn["role"] != "system"]
    answers = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
    learnt = set(range(len(turns)) if loss_on == "All" else answers)
    if loss_on == "Response":
        learnt = set(answers[-1:])
    parts: tuple[list[str], list[str]] = [], []
    for n, turn in enumerate(turns):
        parts[n in learnt].append(turn["content"])
    return "\n".join(parts[0]), "\n".join(parts[1])
