"""Drawing the rows of an epoch from several sources, in the shares that their weights ask for.

An epoch has as many rows as cleaning left, whatever the weights are. Of these, each source gets its
weight's share, exactly (largest remainder). A source that has fewer rows than that gives all of
them as often as fits and a part of them once more; one that has more gives a part. Which part is
told by a hash of content and seed: the same rows in whatever order the files are read, and mostly
the same ones when the data grows. All epochs have the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from finetune_trainer.prepare.cleaning.near import mixed
from finetune_trainer.prepare.tokenize import Ints, Tokenized

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Share:
    """What one source gives to an epoch."""

    rows: int
    """Rows of the source that could be drawn."""
    drawn: int
    """Rows of an epoch; one that is drawn twice counts twice."""

    @property
    def different(self) -> int:
        """Rows of the source that are drawn at all."""
        return min(self.rows, self.drawn)


def mix(
    tokenized: Tokenized, source: Ints, key: Ints, weights: Sequence[Fraction], seed: int
) -> tuple[Tokenized, list[Share]]:
    """The segments of one epoch, and what each source gives to it.

    ``source`` and ``key`` (a hash of the content) are those of every sample of the split. Where all
    rows are drawn once, the segments are in the order that they had. Raises ``ValueError`` for a
    source of which no row is left.
    """
    rows = np.unique(tokenized.samples)
    sizes = np.bincount(source[rows], minlength=len(weights)).tolist()
    counts = apportion(len(rows), weights)
    if empty := [n for n, size in enumerate(sizes) if not size]:
        raise ValueError(f"source {empty[0]} has no row")
    shares = [Share(size, drawn) for size, drawn in zip(sizes, counts, strict=True)]
    copies = np.zeros(len(source), dtype=np.int64)
    for number, share in enumerate(shares):
        own = rows[source[rows] == number]
        often, rest = divmod(share.drawn, share.rows)
        copies[own] = often
        copies[own[_order(key[own], seed)[:rest]]] += 1
    return _repeated(tokenized, copies[tokenized.samples]), shares


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """``total`` in whole parts that are as near to the weights' shares as whole parts can be; where
    remainders are equal, the earlier one gets more."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    parts = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n))
    for number in by_remainder[: total - sum(parts)]:
        parts[number] += 1
    return parts


def _order(key: Ints, seed: int) -> Ints:
    """Rows in an order that depends on their content and on the seed alone."""
    salt = np.uint64((seed * _GOLDEN + _GOLDEN) & _MASK)
    hashes = mixed(mixed(key.view(np.uint64)) ^ mixed(np.atleast_1d(salt)))
    return np.argsort(hashes, kind="stable")


def _repeated(tokenized: Tokenized, copies: Ints) -> Tokenized:
    """Each segment so often, first copies before second ones."""
    places = [np.flatnonzero(copies > n) for n in range(int(copies.max(initial=0)))]
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    cut = tokenized.table.data.column("cut").to_numpy()
    return replace(
        tokenized,
        kept=tokenized.kept[chosen],
        lengths=tokenized.lengths[chosen],
        samples=tokenized.samples[chosen],
        supervised=int(tokenized.targets()[chosen].sum()),
        truncated=int(cut[tokenized.kept[copies > 0]].sum()),
    )
