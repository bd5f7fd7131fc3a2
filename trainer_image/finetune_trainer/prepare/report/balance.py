"""What the rows are made of: rows, tokens and learnt tokens by source, column, length, language.

Counts are exact but for languages, which are told of a fair sample. A column may have any number of
values; only the first ten thousand different ones are told apart, so that memory has a bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune_trainer.prepare.report.rows import Ints, Rows

MAX_VALUES = 8
"""Values of one column that the report shows; the others are added up."""
MAX_DISTINCT = 10_000
_MISSING = "(missing)"
_FIRST_EDGE = 64
"""Tokens of the first length bucket; each bucket ends at twice the length of the one before."""

Facts = dict[str, Any]


class Values:
    """The values of one column by row, as numbers into ``names``."""

    def __init__(self, name: str, cells: Iterable[str | None]) -> None:
        self.name = name
        self.names: list[str] = [_MISSING]
        self.capped = False
        known: dict[str | None, int] = {None: 0}
        codes = []
        for cell in cells:
            code = known.get(cell)
            if code is None:
                code = self._new(cell, known)
            codes.append(code)
        self.codes: Ints = np.asarray(codes, dtype=np.int64)

    def _new(self, cell: str | None, known: dict[str | None, int]) -> int:
        if len(known) > MAX_DISTINCT:
            self.capped = True
            return -1
        self.names.append(str(cell))
        known[cell] = len(known)
        return known[cell]


def read_columns(rows: Rows, columns: Sequence[str]) -> list[Values]:
    """The values of the columns that the job names. Memory: one number a row and column."""
    return [Values(name, _cells(rows, n)) for n, name in enumerate(columns)]


def _cells(rows: Rows, number: int) -> Iterable[str | None]:
    batches = (batch["values"] for batch in rows.batches(["values"]))
    return (values[number] for values in itertools.chain.from_iterable(batches))


def by_column(rows: Rows, values: Values) -> Facts:
    """A column's values, the most frequent first."""
    return {
        "kind": "column",
        "name": values.name,
        "capped": values.capped,
        **tally(rows, values.codes, values.names, missing=0),
    }


def by_source(rows: Rows, names: Sequence[str]) -> Facts:
    """The sources, in the order of the job."""
    facts = tally(rows, rows.column("source"), names, order=False)
    return {"kind": "source", "name": "source", **facts}


def by_length(rows: Rows, longest: int) -> Facts:
    """Buckets of tokens a row, each twice as wide as the one before."""
    edges = [_FIRST_EDGE]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    names = [f"to {edge:,}" for edge in edges]
    codes = np.minimum(np.searchsorted(edges, rows.tokens), len(edges) - 1)
    if (rows.tokens > edges[-1]).any():
        # A row that is split has more tokens than a sequence.
        names.append(f"over {edges[-1]:,}")
        codes = np.where(rows.tokens > edges[-1], len(edges), codes)
    facts = tally(rows, codes.astype(np.int64), names, order=False)
    facts["values"] = [value for value in facts["values"] if value["rows"]]
    return {"kind": "length", "name": "tokens a row", **facts}


def by_language(of: str, rows: Rows, at: Ints, languages: Iterable[str | None]) -> Facts:
    """Of the rows at these positions, the languages of whose prompts or answers are given."""
    values = Values("language", languages)
    chosen = Rows(rows.samples, rows.numbers[at], rows.tokens[at], rows.supervised[at])
    names = ["(not told)", *values.names[1:]]
    return {
        "kind": "language",
        "name": f"Language of the {of}",
        **tally(chosen, values.codes, names, missing=0),
    }


def tally(
    rows: Rows,
    codes: Ints,
    names: Sequence[str],
    *,
    missing: int | None = None,
    order: bool = True,
) -> Facts:
    """Rows and tokens by code; ``missing`` is the code of no value, -1 that of values that were
    not told apart. ``values`` has the first ``MAX_VALUES``, ``further`` the sum of all others."""
    counts = np.stack(
        [
            np.bincount(codes + 1, weights=weights, minlength=len(names) + 1)
            for weights in (np.ones(len(codes)), rows.tokens, rows.supervised)
        ],
        axis=1,
    ).astype(np.int64)
    present = [n for n in range(len(names)) if n != missing and (counts[n + 1, 0] or not order)]
    if order:
        present.sort(key=lambda n: (-int(counts[n + 1, 0]), names[n]))
    shown = present[:MAX_VALUES]
    rest = counts.sum(axis=0) - counts[[n + 1 for n in shown]].sum(axis=0)
    if missing is not None:
        rest -= counts[missing + 1]
    return {
        "rows": len(codes),
        "distinct": len(present),
        "missing": 0 if missing is None else int(counts[missing + 1, 0]),
        "values": [{"value": names[n], **_counted(counts[n + 1])} for n in shown],
        "further": _counted(rest),
    }


def _counted(counts: Ints) -> dict[str, int]:
    rows, tokens, supervised = counts.tolist()
    return {"rows": rows, "tokens": tokens, "supervisedTokens": supervised}
