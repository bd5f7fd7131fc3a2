"""From the rows of all sources to samples: a conversation, or a prompt with its continuation.

Rules that look at one row alone are applied here, while reading; those that compare rows come
later, in ``cleaning``. Each row that is read ends in the account of its source, as a sample or
under a rule.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.expect import check_broken
from finetune_trainer.prepare.cleaning.rejects import MAX_EXCERPT, Account, Ledger
from finetune_trainer.prepare.cleaning.rules import EMPTY_ANSWERS
from finetune_trainer.prepare.cleaning.text import normalize
from finetune_trainer.prepare.formats import LOOK_AHEAD, SourceReport, columns_of, decide
from finetune_trainer.prepare.messages import Message, RowFault, blank_answer, conversation
from finetune_trainer.prepare.rows import RawRow, read_apart, read_rows
from finetune_trainer.prepare.sources import Located, SourceFile
from finetune_trainer.prepare.values import as_value

FEATURES = datasets.Features(
    {
        "source": datasets.Value("int32"),
        "place": datasets.Value("string"),
        "messages": datasets.List(
            {
                "role": datasets.Value("string"),
                "content": datasets.Value("string"),
                "extra": datasets.Value("string"),
            }
        ),
        "tools": datasets.Value("string"),
        "text": datasets.Value("string"),
        "key": datasets.Value("int64"),
        "key_rest": datasets.Value("int64"),
        "id": datasets.Value("int64"),
        "group": datasets.Value("int64"),
        "prompt_chars": datasets.Value("int64"),
        "answer_chars": datasets.Value("int64"),
        "values": datasets.List(datasets.Value("string")),
    }
)

_MAX_UNREADABLE = 1000
"""So many rows at the beginning of a source, and none can be read: it is something else."""

_Placed = tuple[SourceFile, RawRow]
BEFORE = SourceFile(Path(), "")
"""The file of rows that say themselves where they stood."""


class SampleReader:
    """Iterates over the samples of several sources, in order, and reports on each source.

    A sample is a dict of ``FEATURES``: ``messages`` for a conversation (then ``text`` is empty),
    or ``text`` alone. ``key`` and ``key_rest`` are a hash of the content, equal for equal samples;
    ``id`` and ``group`` are hashes of those columns, 0 where there are none; ``values`` are those
    of ``columns``, null where there are none.
    """

    def __init__(
        self,
        sources: Sequence[tuple[DataSource, Located]],
        ledger: Ledger,
        cleaning: Cleaning,
        max_broken: float = 1.0,
        columns: Sequence[str] = (),
    ) -> None:
        self._sources = sources
        self._ledger = ledger
        self._cleaning = cleaning
        self._max_broken = max_broken
        self._columns = columns
        self.absent = set(columns)
        """Those of ``columns`` that no row has had so far."""
        self.reports: list[SourceReport] = []
        self.accounts = [Account(source.field) for source, _ in sources]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, (source, located) in enumerate(self._sources):
            account = self.accounts[index]
            rows = placed_rows(source, located)
            head, name = _head(source, located, rows)
            report = decide(source, name, [row for _, row in head if row.fault is None])
            report.commit = located.commit
            report.files = [file.name for file in located.files]
            self.reports.append(report)
            for file, row in itertools.chain(head, rows):
                account.read += 1
                place = f"{file.name} {row.place}".strip()
                sample = self._sample(source, report, account, place, row)
                if sample is not None:
                    yield {"source": index, "place": place, **sample}
            self._ledger.refuse(account)
            check_broken(account, self._max_broken)
        if not any(account.read > sum(account.dropped.values()) for account in self.accounts):
            _refuse_empty(self.accounts)

    def _sample(
        self, source: DataSource, report: SourceReport, account: Account, place: str, row: RawRow
    ) -> dict[str, Any] | None:
        if row.fault is not None:
            self._ledger.strike(account, row.rule, place, row.fault, row.excerpt)
            return None
        try:
            messages, tools, text = conversation(source, report, row.values)
        except RowFault as fault:
            strike = (fault.rule, place, fault.reason, excerpt_of(row.values))
            self._ledger.strike(account, *strike)
            return None
        if self._cleaning.normalize == "NFC":
            messages, text, changed = _normalized(messages, text)
            account.changed += changed
        blank = blank_answer(messages, text)
        if blank and self._ledger.strike(
            account, EMPTY_ANSWERS, place, blank, excerpt_of(row.values)
        ):
            return None
        columns = columns_of(source, row.values)
        return {
            "messages": messages,
            "tools": tools,
            "text": text,
            **_keys(messages, tools, text),
            "id": _hash_of(row.values.get(columns.get("id", ""))),
            "group": _hash_of(row.values.get(columns.get("group", ""))),
            **_sizes(messages, text),
            "values": self._values(row.values),
        }

    def _values(self, values: Mapping[str, Any]) -> list[str | None]:
        if self.absent:
            self.absent.difference_update(values)
        return [as_value(values.get(column)) for column in self._columns]


def content_key(content: str | list[Message]) -> str:
    """SHA-256 of a sample's text, blind to Unicode form and to white space at the ends."""
    parts = [content] if isinstance(content, str) else [t for m in content for t in m.values()]
    plain = [unicodedata.normalize("NFC", part).strip() for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def excerpt_of(values: Mapping[str, Any]) -> str:
    """The beginning of a row as JSON."""
    shown = {
        str(name)[:MAX_EXCERPT]: value[:MAX_EXCERPT] if isinstance(value, str | list) else value
        for name, value in itertools.islice(values.items(), 20)
    }
    return json.dumps(shown, default=str, ensure_ascii=True)[:MAX_EXCERPT]


def placed_rows(source: DataSource, located: Located) -> Iterator[_Placed]:
    """All rows of a source with their files. Raises ``BadData`` where a file is unusable."""
    for file in located.files:
        try:
            for row in read_rows(file.path, file.name):
                yield file, row
        except BadData as error:
            raise BadData(f"{source.field}.uri: {error.message}", error.hint) from error
    for row in read_apart(located.apart) if located.apart else ():
        yield BEFORE, row


def _head(
    source: DataSource, located: Located, rows: Iterator[_Placed]
) -> tuple[list[_Placed], str]:
    """The first rows of a source, at least one of them readable, and the name of its file."""
    head: list[_Placed] = []
    readable: str | None = None
    for file, row in rows:
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


def _normalized(messages: list[Message], text: str) -> tuple[list[Message], str, bool]:
    clean = [{**m, "content": normalize(m["content"]).strip()} for m in messages]
    clean_text = normalize(text)
    return clean, clean_text, clean != messages or clean_text != text


def _keys(messages: list[Message], tools: str, text: str) -> dict[str, int]:
    digest = content_key([*messages, {"tools": tools}] if messages else text)
    return {"key": _int64(digest[:16]), "key_rest": _int64(digest[16:32])}


def _hash_of(value: object) -> int:
    if value is None or value == "":
        return 0
    digest = hashlib.sha256(str(value).encode("utf-8", "backslashreplace")).hexdigest()
    return _int64(digest[:16]) or 1


def _int64(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), signed=True)


def _sizes(messages: list[Message], text: str) -> dict[str, int]:
    answer = sum(len(m["content"]) for m in messages if m["role"] == "assistant")
    prompt = sum(len(m["content"]) for m in messages if m["role"] in ("user", "tool"))
    return {"prompt_chars": prompt, "answer_chars": answer if messages else len(text)}
