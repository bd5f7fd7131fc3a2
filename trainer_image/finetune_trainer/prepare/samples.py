"""From rows of any format to samples: a conversation, or a prompt with its continuation.

Faults name source, file and line. The first few are collected, then the stage ends: data that is
half unreadable must not become a model.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import datasets  # type: ignore[import-untyped]

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import RawRow, read_rows
from finetune_trainer.prepare.sources import Located, SourceFile

Format = Literal["Chat", "Instruction", "Completion"]
ROLES = ("system", "user", "assistant", "tool")
COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "conversations"),
    "prompt": ("prompt", "instruction", "question"),
    "input": ("input", "context"),
    "response": ("response", "output", "completion", "answer"),
    "system": ("system", "system_prompt"),
    "text": ("text", "content"),
}
"""Column names by role, in order of preference; ``fields`` of a source comes before them."""

FEATURES = datasets.Features(
    {
        "source": datasets.Value("int32"),
        "place": datasets.Value("string"),
        "messages": datasets.List(
            {"role": datasets.Value("string"), "content": datasets.Value("string")}
        ),
        "text": datasets.Value("string"),
        "key": datasets.Value("string"),
    }
)
_MAX_FAULTS = 3


class _RowError(Exception):
    """A row that does not fit the format."""


@dataclass
class SourceReport:
    """What was found in one source; it goes to the manifest."""

    name: str
    format: Format
    decided: str
    """Why this format: the spec, or the columns that gave it away."""
    columns: dict[str, str]
    rows: int = 0
    commit: str | None = None
    """Of a hub repository."""
    files: list[str] = field(default_factory=list)


class SampleReader:
    """Iterates over the samples of several sources, in order, and reports on each source.

    A sample is a dict of ``FEATURES``: ``messages`` for a conversation (then ``text`` is empty),
    or ``text`` alone. ``key`` is a hash of the content, equal for equal samples.
    """

    def __init__(self, sources: list[tuple[DataSource, Located]]) -> None:
        self._sources = sources
        self.reports: list[SourceReport] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, (source, located) in enumerate(self._sources):
            yield from self._source(index, source, located)

    def _source(self, index: int, source: DataSource, located: Located) -> Iterator[dict[str, Any]]:
        report: SourceReport | None = None
        for file in located.files:
            faults: list[str] = []
            for row in _rows(source, file):
                if report is None and row.fault is None:
                    report = _decide(source, file, row)
                    self.reports.append(report)
                try:
                    if row.fault is not None or report is None:
                        raise _RowError(row.fault)
                    sample = _sample(report, row.values)
                except _RowError as fault:
                    faults.append(f"{row.place}: {fault}")
                    if len(faults) == _MAX_FAULTS:
                        break
                    continue
                report.rows += 1
                yield {"source": index, "place": f"{file.name} {row.place}", **sample}
            if faults:
                raise BadData(
                    f"{source.field}: {file.name} {'; '.join(faults)}",
                    "correct these rows; the check stops after a few faults of a file",
                )
            if report is not None:
                report.files.append(file.name)
                report.commit = located.commit
        if report is None:
            names = ", ".join(file.name for file in located.files)
            raise BadData(f"{source.field}.uri: no rows in {names}", "add at least one row")


def _rows(source: DataSource, file: SourceFile) -> Iterator[RawRow]:
    try:
        yield from read_rows(file.path, file.name)
    except BadData as error:
        raise BadData(f"{source.field}.uri: {error.message}", error.hint) from error


def _decide(source: DataSource, file: SourceFile, row: RawRow) -> SourceReport:
    columns = {
        role: found for role in COLUMNS if (found := _column(source, role, row.values)) is not None
    }
    missing = [
        f"fields.{role}: {name}"
        for role, name in source.fields.items()
        if name not in row.values and role in COLUMNS and role not in ("system", "input")
    ]
    if missing:
        raise BadData(
            f"{source.field}.{missing[0]!s} is no column of {file.name} ({row.place})",
            f"its columns are {_names(row.values)}",
        )
    if source.format != "Auto":
        report = SourceReport(source.name, source.format, "as asked for", columns)
        _require(source, file, row, report)
        return report
    if "messages" in columns and isinstance(row.values[columns["messages"]], list):
        return SourceReport(
            source.name, "Chat", f"column {columns['messages']!r} holds messages", columns
        )
    if "prompt" in columns and "response" in columns:
        pair = f"columns {columns['prompt']!r} and {columns['response']!r}"
        return SourceReport(source.name, "Instruction", pair, columns)
    if "text" in columns:
        return SourceReport(source.name, "Completion", f"column {columns['text']!r}", columns)
    raise BadData(
        f"{source.field}.format: Auto finds no known format in {file.name} {row.place}",
        f"its columns are {_names(row.values)}; set format, and fields with the column names",
    )


def _require(source: DataSource, file: SourceFile, row: RawRow, report: SourceReport) -> None:
    needed = {
        "Chat": ("messages",),
        "Instruction": ("prompt", "response"),
        "Completion": ("text",),
    }[report.format]
    for role in needed:
        if role not in report.columns:
            raise BadData(
                f"{source.field}.fields.{role}: format {report.format} needs a column for it, "
                f"and {file.name} {row.place} has none",
                f"its columns are {_names(row.values)}",
            )


def _column(source: DataSource, role: str, values: Mapping[str, Any]) -> str | None:
    candidates = (source.fields[role],) if role in source.fields else COLUMNS[role]
    return next((name for name in candidates if name in values), None)


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "none"


def _sample(report: SourceReport, values: dict[str, Any]) -> dict[str, Any]:
    if report.format == "Completion":
        text = _required_text(values, report.columns["text"])
        return {"messages": [], "text": text, "key": content_key(text)}
    if report.format == "Chat":
        messages = _messages(values.get(report.columns["messages"]), report.columns["messages"])
    else:
        messages = _instruction(report, values)
    return {"messages": messages, "text": "", "key": content_key(messages)}


def _instruction(report: SourceReport, values: dict[str, Any]) -> list[dict[str, str]]:
    prompt = _required_text(values, report.columns["prompt"])
    if extra := _optional_text(values, report.columns.get("input")):
        prompt = f"{prompt}\n\n{extra}"
    response = _required_text(values, report.columns["response"])
    system = _optional_text(values, report.columns.get("system"))
    head = [{"role": "system", "content": system}] if system else []
    return [
        *head,
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response},
    ]


def _messages(value: object, column: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _RowError(f"{column} must be a list of messages with role and content")
    messages = [_message(column, turn, message) for turn, message in enumerate(value)]
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise _RowError(f"{column}[{roles.index('system', 1)}]: a system message must come first")
    if next(role for role in [*roles, "user"] if role != "system") not in ("user", "tool"):
        raise _RowError(f"{column}: a conversation must begin with the user, not the assistant")
    return messages


def _message(column: str, turn: int, message: object) -> dict[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise _RowError(f"{column}[{turn}] must have role and content")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise _RowError(f"{column}[{turn}].role is {role!r}; use {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise _RowError(f"{column}[{turn}].content must be text, not {type(content).__name__}")
    if not content.strip():
        raise _RowError(f"{column}[{turn}].content is empty")
    return {"role": role, "content": content}


def _required_text(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if not isinstance(value, str):
        found = "missing" if value is None else f"not text but {type(value).__name__}"
        raise _RowError(f"{column} is {found}")
    if not value.strip():
        raise _RowError(f"{column} is empty")
    return value


def _optional_text(values: Mapping[str, Any], column: str | None) -> str | None:
    return _required_text(values, column) if column and values.get(column) else None


def content_key(content: str | list[dict[str, str]]) -> str:
    """SHA-256 of a sample's text, blind to Unicode form and to white space at the ends."""
    parts = [content] if isinstance(content, str) else [t for m in content for t in m.values()]
    plain = [unicodedata.normalize("NFC", part).strip() for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
