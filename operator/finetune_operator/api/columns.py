"""What rows are made of: their format, and the columns that it is read from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .schema import Rule, SpecModel

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]


class DataFormat(StrEnum):
    """How rows are laid out. Auto looks at the first rows and says in status what it found."""

    AUTO = "Auto"
    CHAT = "Chat"
    INSTRUCTION = "Instruction"
    COMPLETION = "Completion"


ROLES_OF_FORMAT = {
    DataFormat.CHAT: ("messages", "tools"),
    DataFormat.INSTRUCTION: ("prompt", "response", "input", "system"),
    DataFormat.COMPLETION: ("text",),
}
"""Columns that only rows of a format have."""


def has_any(of: str, roles: tuple[str, ...]) -> str:
    """CEL: the object has one of these fields."""
    return "(" + " || ".join(f"has({of}.{role})" for role in roles) + ")"


OTHER_ROLES = {
    format: tuple(
        role for other, roles in ROLES_OF_FORMAT.items() if other is not format for role in roles
    )
    for format in ROLES_OF_FORMAT
}
"""Columns that only rows of other formats have."""


def formats_of(fields: DataFields) -> list[DataFormat]:
    """Formats that have such columns."""
    return [
        format
        for format, roles in ROLES_OF_FORMAT.items()
        if any(getattr(fields, role) is not None for role in roles)
    ]


class DataFields(SpecModel):
    """Names of the columns, by role. Absent roles keep their usual names."""

    messages: ColumnName | None = None
    """Column with a list of messages (role and content): Chat."""
    tools: ColumnName | None = None
    """Column with the tools that may be called: Chat. Rows may lack it."""
    prompt: ColumnName | None = None
    """Column with the question: Instruction."""
    response: ColumnName | None = None
    """Column with the answer: Instruction."""
    input: ColumnName | None = None
    """Column with more of the question: Instruction. Rows may lack it."""
    system: ColumnName | None = None
    """Column with the system prompt: Instruction. Rows may lack it."""
    text: ColumnName | None = None
    """Column with plain text: Completion."""
    id: ColumnName | None = None
    """Column with the row's name, for `cleaning.duplicateIds`. Absent: `id`, if there is one."""
    group: ColumnName | None = None
    """Column that says what a row belongs to, such as a document or a fact. Rows of one group are
    meant to be related: they are no near duplicates and no leak, and `evalFraction` holds them out
    together. Absent: every row stands for itself."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=" + ".join(
                f"({has_any('self', roles)} ? 1 : 0)" for roles in ROLES_OF_FORMAT.values()
            )
            + " <= 1",
            message="columns of several formats: name messages and tools, or prompt, response, "
            "input and system, or text",
            check=lambda fields: len(formats_of(fields)) <= 1,
        ),
        Rule(
            cel="has(self.prompt) == has(self.response)",
            message="prompt and response go together: set both or neither",
            field_path=".response",
            check=lambda fields: (fields.prompt is None) == (fields.response is None),
        ),
    )
