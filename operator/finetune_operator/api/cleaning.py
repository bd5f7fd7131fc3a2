"""Which rows are fit to be learnt: ``spec.data.cleaning`` and ``spec.data.expect``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .schema import DecimalRange, SpecModel

Fraction = Annotated[str, DecimalRange(0, 1, example="0.05")]


class Normalize(StrEnum):
    """What is done to every text."""

    NFC = "NFC"
    NONE = "None"


class Policy(StrEnum):
    """What happens to a row that falls under a rule."""

    DROP = "Drop"
    REPORT = "Report"
    FAIL = "Fail"


class DropOrFail(StrEnum):
    """The same for rows that cannot be kept."""

    DROP = "Drop"
    FAIL = "Fail"


class NearDuplicates(SpecModel):
    """Rows that are almost the same."""

    policy: Policy = Policy.REPORT
    """Drop (the first row stays), Report or Fail."""
    similarity: Annotated[str, DecimalRange(0.5, 1, example="0.85")] = "0.85"
    """Share of common 8-byte pieces, system prompts left out, from which two rows count as almost
    the same; as a decimal string."""


class Cleaning(SpecModel):
    """What happens to rows, rule by rule, in this order: Drop leaves the row out, Report keeps and
    counts it, Fail ends the job. Every row that falls under a rule is counted in `status.data` and
    listed with file and line in `data/rejects.jsonl` on the claim."""

    normalize: Normalize = Normalize.NFC
    """NFC: text in Unicode normal form C, line ends as line feeds, no control characters, no blank
    ends of messages. None: text as it is. Changed rows are counted in `status.data.changed`."""
    broken_rows: DropOrFail = DropOrFail.DROP
    """Rows that cannot be parsed, or do not have the shape of their source's format. However few
    they may be says `expect.maxBrokenFraction`."""
    encoding: DropOrFail = DropOrFail.DROP
    """Rows whose text is not valid UTF-8, or holds half of a surrogate pair."""
    empty_answers: Policy = Policy.DROP
    """Rows whose answer is missing or blank."""
    exact_duplicates: Policy = Policy.DROP
    """Rows with the content of an earlier row of any training source; the first one stays.
    Also among the rows of `eval`."""
    duplicate_ids: Policy = Policy.REPORT
    """Rows with the id of an earlier row of their source (column `id`, or `fields.id`), and other
    content."""
    length_outliers: Policy = Policy.REPORT
    """Training rows at least 4 times longer or shorter than the middle row of their source and, on
    a logarithmic scale, more than 5 robust standard deviations away; from 100 rows on."""
    ratio_outliers: Policy = Policy.REPORT
    """The same for the length of the answer per length of the prompt."""
    near_duplicates: NearDuplicates = NearDuplicates()
    """Training rows that are almost like an earlier one. Rows of one group (`fields.group`) are
    meant to be alike and are left alone."""
    eval_leakage: Policy = Policy.REPORT
    """Training rows that are the same as, or almost like, a held-out row or one of
    `spec.data.general`; Drop leaves out the training row. Rows of one group (`fields.group`) are
    left alone. What may be left says `expect.maxLeakedFraction`."""
    template_refusals: DropOrFail = DropOrFail.DROP
    """Rows that the chat template refuses, such as roles out of order, or of which it does not tell
    where the answers are. They count as broken for `expect.maxBrokenFraction`."""


class Expect(SpecModel):
    """Bounds that the data must keep; else the job ends in prepare, before a GPU is held. Fractions
    are decimal strings."""

    min_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    """Rows that must be left to train on."""
    max_broken_fraction: Fraction = "0.05"
    """Of the rows of each source: how many may fall under `brokenRows`, `encoding` and
    `templateRefusals`."""
    max_dropped_fraction: Fraction | None = None
    """Of all training rows: how many may be dropped, under whatever rule. Absent: any number."""
    max_truncated_fraction: Fraction | None = None
    """Of the rows to train on: how many may lose their end at `sequenceLength`. Absent: any
    number."""
    max_leaked_fraction: Fraction = "0.5"
    """Of the held-out rows, and of the general ones: how many may be equal to a training row."""
