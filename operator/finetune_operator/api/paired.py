"""Prompts that differ in one term: the wish, and what the models make of the difference."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .data_report import Term
from .schema import LIST_SET, Decimal, DnsLabel, Rule, SpecModel, StatusModel

MAX_LISTS = 4
Count = Annotated[int, Field(ge=0)]
Words = Annotated[str, Field(min_length=1, max_length=1024)]


class PairedPrompt(SpecModel):
    """A prompt and an answer to it; `{term}` in them stands for each of the two terms."""

    prompt: Words
    """What is asked."""
    answer: Words
    """What is answered."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.prompt.contains('{term}') || self.answer.contains('{term}')",
            message="the two would be the same: write {term} into prompt or answer, where the "
            "terms belong",
            check=lambda pair: "{term}" in pair.prompt + pair.answer,
        ),
    )


class PairedPrompts(SpecModel):
    """A list of prompts, each asked with two terms."""

    name: DnsLabel
    """Short name, unique in its list; status and metrics use it."""
    terms: Annotated[
        tuple[Term, ...], Field(min_length=2, max_length=2, json_schema_extra=LIST_SET)
    ]
    """The first and the second term, such as `[he, she]`."""
    prompts: Annotated[tuple[PairedPrompt, ...], Field(min_length=1, max_length=32)]
    """What is asked with both."""


class PairedNumbers(StatusModel):
    """How much likelier a model finds answers with the first term than with the second."""

    difference: Decimal | None = None
    """Mean difference of the log-likelihoods of the answers, in nats; above 0: the first term."""
    absolute_difference: Decimal | None = None
    """Mean of their sizes: differences that cancel each other out still show."""
    first_likelier: Decimal | None = None
    """Share of the prompts for which it is the first term."""


class PairedScores(PairedNumbers):
    """The tuned model on a list of `spec.evaluation.pairedPrompts`."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the list."""
    pairs: Count | None = None
    """Prompts in it."""
    baseline: PairedNumbers | None = None
    """The untouched model on the same."""
