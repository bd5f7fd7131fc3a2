"""What the report on the data counts besides: ``spec.data.report``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import LIST_SET, DnsLabel, SpecModel, list_map

Term = Annotated[str, Field(min_length=1, max_length=64, pattern=r"\S")]


class TermList(SpecModel):
    """Terms to compare with each other, such as words for groups of people."""

    name: DnsLabel
    """Short name, unique in its list; the report and `status.data.warnings` use it."""
    words: Annotated[
        tuple[Term, ...], Field(min_length=1, max_length=64, json_schema_extra=LIST_SET)
    ]
    """Words or phrases. Found without regard to case, as whole words; where a script has no spaces
    between words, anywhere."""


class ReportOptions(SpecModel):
    """What is counted besides volume, sources, lengths and languages, over all rows that are
    trained on. None of it changes which rows those are."""

    columns: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
            Field(min_length=1, max_length=8, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Columns whose values are counted, such as a label, a task or a region; in all sources by the
    same name. A column that no training row has ends the job in prepare."""
    terms: (
        Annotated[
            tuple[TermList, ...],
            Field(min_length=1, max_length=16, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Lists of terms: in how many rows each is, how much of it is learnt, and with which values of
    `columns` it goes together."""
