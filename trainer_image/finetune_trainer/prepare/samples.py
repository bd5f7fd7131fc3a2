"""From the rows of all sources to samples, read in parts, see ``sample``.

Rules that look at one row alone are applied while reading; those that compare rows come later, in
``cleaning``. Each row that is read ends in the account of its source, as a sample or under a rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.expect import check_broken
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.formats import LOOK_AHEAD, SourceReport, decide, optional_columns
from finetune_trainer.prepare.rows import RawLine, RawRow, parsed, read_apart, read_raw
from finetune_trainer.prepare.sample import Part, Read, RowReader
from finetune_trainer.prepare.sources import Located, SourceFile
from finetune_trainer.prepare.workers import in_order

_MAX_UNREADABLE = 1000
"""So many rows at the beginning of a source, and none can be read: it is something else."""

_ROWS_AT_ONCE = 1000
_BYTES_AT_ONCE = 8 * 2**20

_Placed = tuple[SourceFile, RawRow | RawLine]
BEFORE = SourceFile(Path(), "")
"""The file of rows that say themselves where they stood."""


class SampleReader:
    """Reads the samples of several sources, in order, and reports on each source."""

    def __init__(
        self,
        sources: Sequence[tuple[DataSource, Located]],
        ledger: Ledger,
        cleaning: Cleaning,
        max_broken: float = 1.0,
        columns: Sequence[str] = (),
        processes: int = 1,
    ) -> None:
        self._sources = sources
        self._ledger = ledger
        self._cleaning = cleaning
        self._max_broken = max_broken
        self._columns = columns
        self._processes = processes
        self.absent = set(columns)
        """Those of ``columns`` that no row has had so far."""
        self.reports: list[SourceReport] = []
        self.accounts = [Account(source.field) for source, _ in sources]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The samples one by one, as dicts of ``FEATURES``."""
        for batch in self.batches():
            yield from batch.to_pylist()

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        """All samples in order, some hundred at a time."""
        for index, (source, located) in enumerate(self._sources):
            account = self.accounts[index]
            rows = _raw_rows(source, located)
            head, name = _head(source, located, rows)
            report = decide(source, name, [row for _, row in head if row.fault is None])
            report.commit, report.licence = located.commit, located.licence
            report.files = [file.name for file in located.files]
            self.reports.append(report)
            unseen = optional_columns(source)
            reader = RowReader(index, source, report, self._cleaning, self._columns)
            for read in in_order(reader, _parts(head, rows), self._processes):
                self._book(account, read)
                unseen = {role: name for role, name in unseen.items() if name not in read.present}
                yield read.samples
            self._ledger.refuse(account)
            check_broken(account, self._max_broken)
            for role, column in unseen.items():
                raise BadData(
                    f"{source.field}.fields.{role}: no row has a column {column!r}",
                    "name it as the data has it, or remove it",
                )
        if not any(account.read > sum(account.dropped.values()) for account in self.accounts):
            _refuse_empty(self.accounts)

    def _book(self, account: Account, read: Read) -> None:
        account.read += read.read
        account.changed += read.changed
        self.absent -= read.present
        for strike in read.strikes:
            self._ledger.strike(account, *strike)


def placed_rows(source: DataSource, located: Located) -> Iterator[tuple[SourceFile, RawRow]]:
    """All rows of a source with their files. Raises ``BadData`` where a file is unusable."""
    return ((file, parsed(row)) for file, row in _raw_rows(source, located))


def _raw_rows(source: DataSource, located: Located) -> Iterator[_Placed]:
    for file in located.files:
        try:
            for row in read_raw(file.path, file.name):
                yield file, row
        except BadData as error:
            raise BadData(f"{source.field}.uri: {error.message}", error.hint) from error
    for row in read_apart(located.apart) if located.apart else ():
        yield BEFORE, row


def _parts(head: Iterable[_Placed], rows: Iterator[_Placed]) -> Iterator[Part]:
    """The rows in parts of a bounded size. Those in front of what cannot be read come first."""
    part: Part = []
    size = 0
    fault: BadData | None = None
    placed = itertools.chain(head, rows)
    while fault is None:
        try:
            file, row = next(placed)
        except StopIteration:
            break
        except BadData as error:
            fault = error
            break
        part.append((file.name, row))
        size += len(row.line) if isinstance(row, RawLine) else _size(row.values)
        if len(part) == _ROWS_AT_ONCE or size > _BYTES_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part
    if fault is not None:
        raise fault


def _size(value: object) -> int:
    """About the bytes of a value."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _head(
    source: DataSource, located: Located, rows: Iterator[_Placed]
) -> tuple[list[tuple[SourceFile, RawRow]], str]:
    """The first rows of a source, at least one of them readable, and the name of its file."""
    head: list[tuple[SourceFile, RawRow]] = []
    readable: str | None = None
    for file, raw in rows:
        row = parsed(raw)
        head.append((file, row))
        if row.fault is None and readable is None:
            readable = file.name
        if len(head) >= (_MAX_UNREADABLE if readable is None else LOOK_AHEAD):
            break
    if not head:
        names = ", ".join(file.name for file in located.files)
        raise BadData(f"{source.field}.uri: no rows in {names}", "add at least one row")
    if readable is None:
        file, row = head[0]
        raise BadData(
            f"{source.field}: no row can be read; {file.name} {row.place}: {row.fault}",
            "check that the file holds JSON objects, one a line, or is named after its kind",
        )
    return head, readable


def _refuse_empty(accounts: list[Account]) -> None:
    account = accounts[0]
    rules = ", ".join(f"{rule}: {n}" for rule, n in sorted(account.dropped.items()))
    example = next(iter(account.examples.values()), ["no rows"])[0]
    raise BadData(
        f"{account.field}: no row is left of {account.read} ({rules}), such as {example}",
        "correct the rows, or the fields that name their columns",
    )
