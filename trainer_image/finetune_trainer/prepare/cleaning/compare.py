"""The rules that compare rows with each other, over the whole table of samples.

Each rule yields what it finds as (row, reason), in the order of the rows; ``Table.apply`` asks the
policy. Columns of numbers are in memory, texts stay on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.cleaning.near import (
    Likeness,
    Sketches,
    pairs_across,
    pairs_within,
    plain,
)
from finetune_trainer.prepare.cleaning.outliers import outlying
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.lists import cells, column_of
from finetune_trainer.prepare.workers import in_order

Mask = npt.NDArray[np.bool_]
Finding = tuple[int, str]
_AT_ONCE = 1000
"""Rows whose texts are read together."""
_EQUAL = 2.0
"""More than any likeness: the content is equal, also in case and white space."""


@dataclass(frozen=True)
class Leaks:
    """What stands on both sides."""

    findings: list[Finding]
    """Training rows that are, or almost, held-out rows."""
    held: frozenset[int]
    """Held-out rows that have such a twin, by their number in the corpus."""
    equal: frozenset[int]
    """Those among them whose twin is their equal."""


class Table:
    """Samples of one side and which of them are still in."""

    def __init__(
        self, samples: datasets.Dataset, accounts: Sequence[Account], ledger: Ledger
    ) -> None:
        self.samples = samples
        self.accounts = accounts
        self._ledger = ledger
        self.alive: Mask = np.ones(len(samples), dtype=bool)
        self.source = self.column("source")

    def column(self, name: str) -> npt.NDArray[Any]:
        return column_of(self.samples, name)

    def apply(self, rule: str, findings: Iterable[Finding]) -> None:
        """Drop, report or refuse the rows that a rule found."""
        for row, reason in findings:
            account = self.accounts[self.source[row]]
            excerpt = self.text(row)
            if self._ledger.strike(account, rule, self.place(row), reason, excerpt):
                self.alive[row] = False
        for account in self.accounts:
            self._ledger.refuse(account)

    def place(self, row: int) -> str:
        return str(cells(self.samples, row, "place")["place"])

    def text(self, row: int) -> str:
        return text_of(cells(self.samples, row, "messages", "text"))

    def kept(self, among: Mask | None = None) -> datasets.Dataset:
        """The samples that are in, of all or of those that ``among`` marks."""
        mask = self.alive if among is None else self.alive & among
        return self.samples.select(np.flatnonzero(mask))


def exact_duplicates(table: Table) -> Iterator[Finding]:
    """Rows with the content of an earlier row, of any source of their side."""
    for earlier, row in _repeats(table, table.column("key"), table.column("key_rest")):
        yield row, f"the same as {table.place(earlier)}"


def duplicate_ids(table: Table) -> Iterator[Finding]:
    """Rows with the id of an earlier row of their source."""
    ids = table.column("id")
    for earlier, row in _repeats(table, ids, table.source, among=ids != 0):
        yield row, f"the same id as {table.place(earlier)}, other content"


def length_outliers(table: Table) -> Iterator[Finding]:
    """Rows of unusual length in their source."""
    chars = table.column("prompt_chars") + table.column("answer_chars")
    for row, middle in _unusual(table, chars.astype(np.float64) + 1, np.ones(len(chars), bool)):
        yield row, f"{chars[row]:,} characters; the middle row of the source has {middle - 1:,.0f}"


def ratio_outliers(table: Table) -> Iterator[Finding]:
    """Rows whose answer is unusually long or short for its prompt, in their source."""
    prompt, answer = table.column("prompt_chars"), table.column("answer_chars")
    for row, middle in _unusual(table, (answer + 1) / (prompt + 1), prompt > 0):
        yield (
            row,
            f"{answer[row]:,} characters of answer to {prompt[row]:,} of prompt; the middle row "
            f"of the source has {middle:.2g} to 1",
        )


class Corpus:
    """The living samples of one or more tables, numbered through, and which of them are alike.

    Samples of one declared group are meant to be related: they are never compared.
    """

    def __init__(
        self, tables: Sequence[Table], similarity: float, scratch: Path, processes: int = 1
    ) -> None:
        self._tables = tables
        self._similarity = similarity
        rows = [np.flatnonzero(table.alive) for table in tables]
        self.rows = np.concatenate(rows)
        """The row of each sample in its table."""
        self.part = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        """The number of that table."""
        self._group = self._column("group")
        self._sketches = Sketches(scratch, similarity, self._texts(processes))
        self._likeness = Likeness(self._text)
        self.clusters: list[int] = []
        """Sizes of the groups of near duplicates, once those were looked for."""

    def numbers(self, part: int) -> frozenset[int]:
        """The samples of a table, by their number in the corpus."""
        return frozenset(np.flatnonzero(self.part == part).tolist())

    def near_duplicates(self) -> Iterator[Finding]:
        """Rows of the first table that are almost like an earlier one, and not its equal."""
        found: dict[int, tuple[int, float]] = {}
        key, rest = self._column("key"), self._column("key_rest")
        for pairs in pairs_within(self._sketches, self._alive() & (self.part == 0)):
            one, other = pairs[:, 0], pairs[:, 1]
            equal = (key[one] == key[other]) & (rest[one] == rest[other])
            for earlier, later in self._unrelated(pairs[~equal]):
                if later not in found and (share := self._alike(earlier, later)):
                    found[later] = (earlier, share)
        self.clusters = cluster_sizes({later: earlier for later, (earlier, _) in found.items()})
        for later, (earlier, share) in sorted(found.items()):
            yield int(self.rows[later]), self._reason(earlier, share)

    def leaks(self, held: Mask) -> Leaks:
        """What both sides have in common; ``held`` marks the samples that are held out."""
        found: dict[int, tuple[int, float]] = dict(self._same(held))
        leaked = {twin for twin, _ in found.values()}
        equal = frozenset(leaked)
        for pairs in pairs_across(self._sketches, self._alive(), held):
            for number, twin in self._unrelated(pairs):
                if number in found and twin in leaked:
                    continue
                if share := self._alike(number, twin):
                    found.setdefault(number, (twin, share))
                    leaked.add(twin)
        findings = [
            (int(self.rows[number]), self._reason(twin, share))
            for number, (twin, share) in sorted(found.items())
        ]
        return Leaks(findings, frozenset(leaked), equal)

    def _same(self, held: Mask) -> Iterator[tuple[int, tuple[int, float]]]:
        """Exactly equal pairs: found by their keys, with no help of chance."""
        key, rest = self._column("key"), self._column("key_rest")
        twins = {(int(key[n]), int(rest[n])): int(n) for n in np.flatnonzero(held)[::-1]}
        for number in np.flatnonzero(~held & self._alive() & np.isin(key, key[held])):
            twin = twins.get((int(key[number]), int(rest[number])))
            if twin is not None and not _related(self._group[number], self._group[twin]):
                yield int(number), (twin, _EQUAL)

    def _alike(self, one: int, other: int) -> float | None:
        share = self._likeness(one, other)
        return share if share >= self._similarity else None

    def _unrelated(self, pairs: npt.NDArray[np.int64]) -> list[list[int]]:
        related = _related(self._group[pairs[:, 0]], self._group[pairs[:, 1]])
        chosen: list[list[int]] = pairs[~related].tolist()
        return chosen

    def _reason(self, other: int, share: float) -> str:
        place = self._tables[self.part[other]].place(self.rows[other])
        return f"the same as {place}" if share == _EQUAL else f"{100 * share:.0f} % like {place}"

    def _alive(self) -> Mask:
        return np.asarray(
            np.concatenate([t.alive[self.rows[self.part == n]] for n, t in enumerate(self._tables)])
        )

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        parts = [t.column(name)[self.rows[self.part == n]] for n, t in enumerate(self._tables)]
        return np.asarray(np.concatenate(parts))

    def _texts(self, processes: int) -> Iterator[bytes]:
        tables = [table.samples.select_columns(["messages", "text"]) for table in self._tables]
        starts = range(0, len(self.rows), _AT_ONCE)

        def texts(start: int) -> list[bytes]:
            part, rows = (each[start : start + _AT_ONCE] for each in (self.part, self.rows))
            batches = (tables[number][rows[part == number]] for number in np.unique(part))
            return [
                plain(text_of({"messages": messages, "text": text}))
                for batch in batches
                for messages, text in zip(batch["messages"], batch["text"], strict=True)
            ]

        return itertools.chain.from_iterable(in_order(texts, starts, processes))

    def _text(self, number: int) -> bytes:
        return plain(self._tables[self.part[number]].text(self.rows[number]))


def cluster_sizes(earlier: dict[int, int]) -> list[int]:
    """How many rows hang together, the largest group first, from each row's link to an earlier
    one."""
    first: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for row in sorted(earlier):
        root = first.get(earlier[row], earlier[row])
        first[row] = root
        sizes[root] = sizes.get(root, 1) + 1
    return sorted(sizes.values(), reverse=True)


def text_of(sample: dict[str, Any]) -> str:
    """The text of a sample without its system prompt, which many rows share."""
    turns = [m["content"] for m in sample["messages"] if m["role"] != "system"]
    return "\n".join(turns) if sample["messages"] else str(sample["text"])


def _related(one: Any, other: Any) -> Mask:
    return np.asarray((one == other) & (one != 0))


def _repeats(
    table: Table,
    major: npt.NDArray[Any],
    minor: npt.NDArray[Any],
    among: Mask | None = None,
) -> Iterator[tuple[int, int]]:
    """(first row, later row) for living rows that agree in both columns, by the later row."""
    rows = np.flatnonzero(table.alive if among is None else table.alive & among)
    order = rows[np.lexsort((rows, minor[rows], major[rows]))]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (major[order][1:] != major[order][:-1]) | (minor[order][1:] != minor[order][:-1])
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    repeated = np.flatnonzero(~new)
    for at in repeated[np.argsort(order[repeated])]:
        yield int(first[at]), int(order[at])


def _unusual(
    table: Table, values: npt.NDArray[np.float64], among: Mask
) -> Iterator[tuple[int, float]]:
    """(row, median of its source) of living rows that are outliers in their source."""
    for source in range(len(table.accounts)):
        rows = np.flatnonzero(table.alive & among & (table.source == source))
        if len(rows):
            middle = float(np.median(values[rows]))
            for at in np.flatnonzero(outlying(values[rows])):
                yield int(rows[at]), middle
