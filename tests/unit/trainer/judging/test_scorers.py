"""Bounds of what the user's scorers said."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from finetune_trainer.config import Gate
from finetune_trainer.errors import GateFailed
from finetune_trainer.judging.gate import pass_gate
from finetune_trainer.judging.scorers import ScorerWords, read_words

SAID = read_words(
    json.dumps(
        [
            {"name": "polite", "tuned": {"tone": "0.9", "flat": "2"}, "base": {"tone": "0.7"}},
            {"name": "broken", "failure": "ended with exit code 3: no model"},
        ]
    )
)


def ask(said: Any = SAID, **bound: Any) -> str:
    known = {"name": "polite", "metric": "tone", **bound}
    return pass_gate(Gate.model_validate({"scorers": [known]}), {}, said)


@pytest.mark.parametrize("bound", [{"atLeast": 0.9}, {"minImprovement": 0.2}])
def test_a_number_within_its_bounds_passes(bound: dict[str, Any]) -> None:
    assert ask(**bound) == "tone of scorer polite is 0.9 (untouched model: 0.7)"
    assert ask(metric="flat", atLeast=2) == "flat of scorer polite is 2"


@pytest.mark.parametrize(
    ("bound", "fault"),
    [
        ({"atLeast": 0.91}, "tone of scorer polite is 0.9 and has to be at least 0.91"),
        ({"minImprovement": 0.3}, "is 0.9 after 0.7 of the untouched model and has to be better"),
        ({"metric": "flat", "minImprovement": 0}, "was not said of the untouched model"),
        ({"metric": "x", "atLeast": 0}, "x of scorer polite was not said: it said tone, flat"),
        ({"name": "broken", "atLeast": 0}, "scorer broken ended with exit code 3: no model"),
        ({"name": "absent", "atLeast": 0}, "scorer absent did not run"),
    ],
)
def test_what_falls_short_is_told(bound: dict[str, Any], fault: str) -> None:
    with pytest.raises(GateFailed) as caught:
        ask(**bound)
    assert fault in caught.value.message


def test_a_number_that_is_not_finite_passes_nothing() -> None:
    nan = (ScorerWords("polite", {"tone": math.nan}, {"tone": 0.1}),)
    for bound in ({"atLeast": 0}, {"minImprovement": 0}):
        with pytest.raises(GateFailed):
            ask(nan, **bound)


def test_a_job_without_scorers_tells_of_none() -> None:
    assert read_words(None) == ()
