"""From one row to its sample: a conversation, or a prompt with its continuation.

Rules that look at one row alone are applied here. Nothing is shared between rows, so parts of a
source can be read in any process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.prepare.cleaning.rejects import MAX_EXCERPT
from finetune_trainer.prepare.cleaning.rules import EMPTY_ANSWERS
from finetune_trainer.prepare.cleaning.text import normalize
from finetune_trainer.prepare.formats import SourceReport, columns_of, optional_columns
from finetune_trainer.prepare.messages import Message, RowFault, blank_answer, conversation
from finetune_trainer.prepare.rows import RawLine, RawRow, parsed
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

Part = list[tuple[str, RawRow | RawLine]]
"""Rows with the names of their files."""


class Strike(NamedTuple):
    """A row falls under a rule, see ``Ledger.strike``."""

    rule: str
    place: str
    reason: str
    excerpt: str


@dataclass
class Read:
    """What became of the rows of a part."""

    samples: pyarrow.RecordBatch
    read: int
    changed: int = 0
    """Rows whose text was normalised to another."""
    strikes: list[Strike] = field(default_factory=list)
    """In the order of the rows."""
    present: set[str] = field(default_factory=set)
    """Those of the report's columns that some sample has, and of ``optional_columns`` that some row
    has."""


class RowReader:
    """Makes samples of the rows of one source.

    A sample is a dict of ``FEATURES``: ``messages`` for a conversation (then ``text`` is empty),
    or ``text`` alone. ``key`` and ``key_rest`` are a hash of the content, equal for equal samples;
    ``id`` and ``group`` are hashes of those columns, 0 where there are none; ``values`` are those
    of ``columns``, null where there are none.
    """

    def __init__(
        self,
        index: int,
        source: DataSource,
        report: SourceReport,
        cleaning: Cleaning,
        columns: Sequence[str],
    ) -> None:
        self._index = index
        self._source = source
        self._report = report
        self._cleaning = cleaning
        self._columns = columns
        self._optional = set(optional_columns(source).values())

    def __call__(self, part: Part) -> Read:
        schema = FEATURES.arrow_schema
        found = Read(pyarrow.RecordBatch.from_pylist([], schema=schema), len(part))
        samples = []
        for name, raw in part:
            row = parsed(raw)
            place = f"{name} {row.place}".strip()
            sample = self._sample(found, place, row)
            if sample is not None:
                samples.append({"source": self._index, "place": place, **sample})
        found.samples = pyarrow.RecordBatch.from_pylist(samples, schema=schema)
        return found

    def _sample(self, found: Read, place: str, row: RawRow) -> dict[str, Any] | None:
        if row.fault is not None:
            found.strikes.append(Strike(row.rule, place, row.fault, row.excerpt))
            return None
        if self._optional:
            found.present |= self._optional & row.values.keys()
        try:
            messages, tools, text = conversation(self._source, self._report, row.values)
        except RowFault as fault:
            found.strikes.append(Strike(fault.rule, place, fault.reason, excerpt_of(row.values)))
            return None
        if self._cleaning.normalize == "NFC":
            messages, text, changed = _normalized(messages, text)
            found.changed += changed
        if blank := blank_answer(self._source, self._report, row.values, messages, text):
            found.strikes.append(Strike(EMPTY_ANSWERS, place, blank, excerpt_of(row.values)))
            if self._cleaning.policy(EMPTY_ANSWERS) != "Report":
                return None
        columns = columns_of(self._source, row.values)
        if self._columns:
            found.present.update(column for column in self._columns if column in row.values)
        return {
            "messages": messages,
            "tools": tools,
            "text": text,
            **_keys(messages, tools, text),
            "id": _hash_of(row.values.get(columns.get("id", ""))),
            "group": _hash_of(row.values.get(columns.get("group", ""))),
            **_sizes(messages, text),
            "values": [as_value(row.values.get(column)) for column in self._columns],
        }


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
