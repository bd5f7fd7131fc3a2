"""What the user's scorers said of the answers, as the operator tells export, and their bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from finetune_trainer.config import ScorerBound
from finetune_trainer.judging.margin import reaches


@dataclass(frozen=True)
class ScorerWords:
    name: str
    tuned: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    """Why there are no numbers, as the end of a sentence that begins with its name."""


def read_words(text: str | None) -> tuple[ScorerWords, ...]:
    """``status.scorers`` of the job as JSON; None: it has no scorers."""
    return tuple(
        ScorerWords(
            each["name"],
            {name: float(value) for name, value in each.get("tuned", {}).items()},
            {name: float(value) for name, value in each.get("base", {}).items()},
            each.get("failure"),
        )
        for each in json.loads(text or "[]")
    )


def faults_of_bound(bound: ScorerBound, said: Sequence[ScorerWords]) -> Iterator[str]:
    """What keeps the gate shut."""
    words = _of(bound, said)
    name = f"{bound.metric} of scorer {bound.name}"
    if words.failure is not None:
        yield f"scorer {bound.name} {words.failure}"
        return
    value, before = words.tuned.get(bound.metric), words.base.get(bound.metric)
    if value is None:
        yield f"{name} was not said: it said {', '.join(words.tuned) or 'nothing'}"
        return
    if bound.at_least is not None and not value >= bound.at_least:
        yield f"{name} is {value:.4g} and has to be at least {bound.at_least:g}"
    if bound.min_improvement is None:
        return
    if before is None:
        yield f"{name} was not said of the untouched model"
    elif not reaches(value - before, bound.min_improvement):
        yield (
            f"{name} is {value:.4g} after {before:.4g} of the untouched model and has to be better "
            f"by at least {bound.min_improvement:g}"
        )


def told_of_bound(bound: ScorerBound, said: Sequence[ScorerWords]) -> str:
    """What the gate was passed by."""
    words = _of(bound, said)
    before = words.base.get(bound.metric)
    base = "" if before is None else f" (untouched model: {before:.4g})"
    return f"{bound.metric} of scorer {bound.name} is {words.tuned[bound.metric]:.4g}{base}"


def _of(bound: ScorerBound, said: Sequence[ScorerWords]) -> ScorerWords:
    there = (words for words in said if words.name == bound.name)
    return next(there, ScorerWords(bound.name, failure="did not run"))
