"""How the rows of a source are laid out: which format, which columns, and what gave it away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import RawRow

Format = Literal["Chat", "Instruction", "Completion"]
COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "conversations"),
    "prompt": ("prompt", "instruction", "question"),
    "input": ("input", "context"),
    "response": ("response", "output", "completion", "answer"),
    "system": ("system", "system_prompt"),
    "text": ("text", "content"),
    "tools": ("tools",),
    "id": ("id",),
    "group": (),
}
"""Column names by role, in order of preference; ``fields`` of a source comes before them."""
_ROLES: dict[Format, set[str]] = {
    "Chat": {"messages", "tools"},
    "Instruction": {"prompt", "response", "input", "system"},
    "Completion": {"text"},
}
NEEDED: dict[Format, tuple[str, ...]] = {
    "Chat": ("messages",),
    "Instruction": ("prompt", "response"),
    "Completion": ("text",),
}
MAY_LACK = ("system", "input", "tools")
"""Roles whose column need not be in the first rows, even where ``fields`` names it."""
LOOK_AHEAD = 16
"""Rows that Auto looks at."""


@dataclass
class SourceReport:
    """What was found in one source; it goes to the manifest."""

    name: str
    format: Format
    decided: str
    """Why this format: the spec, or the columns that gave it away."""
    columns: dict[str, str]
    """Column by role, as the first row of the format has it."""
    commit: str | None = None
    """Of a hub repository."""
    licence: str | None = None
    """Of the rows, if their README.md names one."""
    files: list[str] = field(default_factory=list)


def decide(source: DataSource, name: str, rows: list[RawRow]) -> SourceReport:
    """The layout of a source by its first readable rows, of the file ``name``.

    Auto takes the format that most of them have, and says so. Raises ``BadData``.
    """
    _check_fields(source, name, rows)
    if source.format != "Auto":
        columns = [columns_of(source, row.values) for row in rows]
        usable = [c for c in columns if all(role in c for role in NEEDED[source.format])]
        if not usable:
            _refuse(source, name, rows[0], source.format, columns[0])
        return SourceReport(source.name, source.format, "as asked for", usable[0])
    asked = _asked_for(source)
    found = [(recognise(source, row.values, asked), row) for row in rows]
    votes = Counter(format for format, _ in found if format is not None)
    if not votes:
        raise BadData(
            f"{source.field}.format: Auto finds no known format in {name} {rows[0].place}",
            f"its columns are {_names(rows[0].values)}; set format, and fields with the column "
            "names",
        )
    format, count = votes.most_common(1)[0]
    columns = [columns_of(source, row.values) for kind, row in found if kind == format]
    decided = _evidence(format, columns[0])
    if count < len(rows):
        decided += f" in {count} of the first {len(rows)} rows"
    return SourceReport(source.name, format, decided, columns[0])


def recognise(
    source: DataSource, values: Mapping[str, Any], asked: Format | None = None
) -> Format | None:
    """The format of one row by its columns, if it has one, or has the one that is asked for."""
    columns = columns_of(source, values)
    for format, needed in NEEDED.items():
        if asked not in (None, format) or not all(role in columns for role in needed):
            continue
        if format != "Chat" or _is_conversation(values[columns["messages"]]):
            return format
    return None


def columns_of(source: DataSource, values: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a row by role. One that ``fields`` gives to a role has no other text."""
    found = {}
    for role, names in _names_of(tuple(source.fields.items())).items():
        for name in names:
            if name in values:
                found[role] = name
                break
    return found


@cache
def _names_of(fields: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    """Names of columns by role, in order of preference; ``fields`` of a source, as a tuple."""
    given = dict(fields)
    taken = set(given.values())
    return {
        role: (given[role],)
        if role in given
        else tuple(name for name in usual if role == "id" or name not in taken)
        for role, usual in COLUMNS.items()
    }


def optional_columns(source: DataSource) -> dict[str, str]:
    """Columns by role that ``fields`` names, and that not every row has."""
    return {role: column for role, column in source.fields.items() if role in MAY_LACK}


def looks_like(source: DataSource, values: Mapping[str, Any]) -> str:
    """For messages about a row that does not fit: what it is instead."""
    format = recognise(source, values)
    if format is None:
        return f"its columns are {_names(values)}"
    return f"it looks like {format} ({_evidence(format, columns_of(source, values))})"


def _evidence(format: Format, columns: Mapping[str, str]) -> str:
    if format == "Chat":
        return f"column {columns['messages']!r} holds messages"
    if format == "Instruction":
        return f"columns {columns['prompt']!r} and {columns['response']!r}"
    return f"column {columns['text']!r}"


def _asked_for(source: DataSource) -> Format | None:
    """The format whose columns ``fields`` names."""
    return next((format for format, roles in _ROLES.items() if roles & source.fields.keys()), None)


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")


def _check_fields(source: DataSource, name: str, rows: list[RawRow]) -> None:
    for role, column in source.fields.items():
        if role not in MAY_LACK and not any(column in row.values for row in rows):
            raise BadData(
                f"{source.field}.fields.{role}: {column} is no column of {name} ({rows[0].place})",
                f"its columns are {_names(rows[0].values)}",
            )


def _refuse(
    source: DataSource, name: str, row: RawRow, format: Format, columns: Mapping[str, str]
) -> None:
    role = next(role for role in NEEDED[format] if role not in columns)
    raise BadData(
        f"{source.field}.fields.{role}: format {format} needs a column for it, "
        f"and {name} {row.place} has none",
        f"its columns are {_names(row.values)}",
    )


def _names(values: Mapping[str, Any]) -> str:
    names = sorted(map(str, values))
    shown = ", ".join(name[:40] for name in names[:12]) or "none"
    return shown + (", …" if len(names) > 12 else "")
