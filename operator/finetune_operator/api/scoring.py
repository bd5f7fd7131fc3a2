"""Scores by a program of the user's own: the wish, the bound, and what came of it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .schema import Decimal, DecimalRange, DnsLabel, Rule, SpecModel, StatusModel
from .user_container import UserContainer

MAX_SCORERS = 4
"""The kubelet keeps 12 kB of the words of a pod's containers."""
MAX_METRICS = 16
METRIC = r"^[A-Za-z][A-Za-z0-9_-]*$"
MetricName = Annotated[str, Field(min_length=1, max_length=63, pattern=METRIC)]


class Scorer(UserContainer):
    """A container that reads the table of answers and says numbers. It has nothing else of the
    job."""

    name: DnsLabel
    """Short name, unique in its list; status, gate and metrics use it."""


class ScorerBound(SpecModel):
    """A bound of one number of a scorer, or an improvement over the untouched model, or both. More
    is better."""

    name: DnsLabel
    """One of `spec.evaluation.generation.scorers`."""
    metric: MetricName
    """A number that it says."""
    at_least: Annotated[str, DecimalRange(0, 1_000_000, example="0.8")] | None = None
    """Lowest number of the tuned model that passes, a decimal string."""
    min_improvement: Annotated[str, DecimalRange(0, 1_000_000, example="0.05")] | None = None
    """By how much the untouched model has to be surpassed, a decimal string; "0": not at all, but
    it must not be better."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.atLeast) || has(self.minImprovement)",
            message="a number without a bound lets everything pass: set atLeast or minImprovement",
            check=lambda bound: (bound.at_least, bound.min_improvement) != (None, None),
        ),
    )


Numbers = Annotated[dict[str, Decimal], Field(max_length=MAX_METRICS)]


class ScorerStatus(StatusModel):
    """What a scorer said, or why it said nothing."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the scorer."""
    tuned: Numbers | None = None
    """Its numbers of the tuned model."""
    base: Numbers | None = None
    """Those of the untouched model."""
    failure: Annotated[str, Field(max_length=512)] | None = None
    """Why there are none."""
