"""What keeps the gate shut, and what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest

from finetune_trainer.config import Gate
from finetune_trainer.errors import GateFailed
from finetune_trainer.judging.gate import pass_gate

METRICS: dict[str, Any] = {
    "evalLoss": 1.3,
    "perplexity": 3.67,
    "tokenAccuracy": 0.7,
    "exactMatch": 0.42,
    "bleu": 31.25,
    "baseline": {"evalLoss": 2.0, "exactMatch": 0.4, "bleu": 31.25},
}


def ask(*scores: dict[str, Any], **changes: Any) -> str:
    return pass_gate(Gate.model_validate({"scores": scores}), {**METRICS, **changes})


@pytest.mark.parametrize(
    ("score", "fault"),
    [
        ({"metric": "ExactMatch", "atLeast": 0.42}, None),
        ({"metric": "ExactMatch", "atLeast": 0.8}, "exactMatch is 0.42 and has to be at least 0.8"),
        ({"metric": "EvalLoss", "atMost": 1.3}, None),
        ({"metric": "EvalLoss", "atMost": 1.2}, "evalLoss is 1.3 and has to be at most 1.2"),
        ({"metric": "EvalLoss", "minImprovement": 0.7}, None),
        ({"metric": "EvalLoss", "minImprovement": 0.71},
         "evalLoss is 1.3 after 2 of the untouched model and has to be better by at least 0.71"),
        ({"metric": "BLEU", "minImprovement": 0}, None),
        ({"metric": "BLEU", "minImprovement": 0.1}, "bleu is 31.25 after 31.25 of the untouched"),
        ({"metric": "ExactMatch", "atLeast": 0.1, "minImprovement": 0.1}, "better by at least 0.1"),
        ({"metric": "ChrF", "atLeast": 0}, "chrF was not measured"),
        ({"metric": "Perplexity", "minImprovement": 0}, "perplexity of the untouched model was"),
    ],
)  # fmt: skip
def test_each_bound_by_itself(score: dict[str, Any], fault: str | None) -> None:
    if fault is None:
        assert "(untouched model: " in ask(score)
        return
    with pytest.raises(GateFailed, match="the model is not published, because ") as caught:
        ask(score)
    assert fault in caught.value.message
    assert caught.value.failure.exit_code == 80


def test_all_of_them_have_to_hold_and_all_that_do_not_are_told() -> None:
    low, high = {"metric": "ExactMatch", "atLeast": 0.8}, {"metric": "EvalLoss", "atMost": 1.0}
    good = {"metric": "TokenAccuracy", "atLeast": 0.5}
    with pytest.raises(GateFailed) as caught:
        ask(good, low, high)
    assert caught.value.message.count("has to be") == 2
    assert ask(good, {"metric": "EvalLoss", "atMost": 2}) == (
        "tokenAccuracy is 0.7; evalLoss is 1.3 (untouched model: 2)"
    )


@pytest.mark.parametrize(
    "score", [{"metric": "EvalLoss", "atMost": 2}, {"metric": "EvalLoss", "minImprovement": 0}]
)
def test_a_score_that_is_not_finite_passes_nothing(score: dict[str, Any]) -> None:
    with pytest.raises(GateFailed):
        ask(score, evalLoss=math.nan)
    with pytest.raises(GateFailed):
        ask(score, evalLoss=math.inf)


@pytest.mark.parametrize(
    ("loss", "base", "fault"),
    [
        (2.35, 2.25, None),
        (1.9, 2.25, None),
        (2.36, 2.25, "generalLoss is 2.36 after 2.25 of the untouched model and may lie at most "
         "0.1 above that"),
        (math.nan, 2.25, "generalLoss is nan"),
        (2.25, math.nan, "of the untouched model"),
        (None, 2.25, "generalLoss of the tuned model was not measured"),
        (2.25, None, "generalLoss of the untouched model was not measured"),
    ],
)  # fmt: skip
def test_what_was_forgotten_is_bounded(loss: Any, base: Any, fault: str | None) -> None:
    gate = Gate.model_validate({"forgetting": {"maxLossIncrease": 0.1}})
    metrics = {"generalLoss": loss, "baseline": {"generalLoss": base}}
    if fault is None:
        said = f"generalLoss is {loss:g} after 2.25 of the untouched model"
        assert pass_gate(gate, metrics) == said
        return
    with pytest.raises(GateFailed) as caught:
        pass_gate(gate, metrics)
    assert fault in caught.value.message


@pytest.mark.parametrize(("value", "before"), [(0.9, 0.8), (0.3, 0.2), (0.8, 0.7)])
def test_a_difference_of_exactly_the_bound_passes(value: float, before: float) -> None:
    """Of floats, 0.9 - 0.8 is less than 0.1, and 0.8 - 0.7 is more."""
    score = {"metric": "ExactMatch", "minImprovement": 0.1}
    assert ask(score, exactMatch=value, baseline={"exactMatch": before})
    gate = Gate.model_validate({"forgetting": {"maxLossIncrease": 0.1}})
    assert pass_gate(gate, {"generalLoss": value, "baseline": {"generalLoss": before}})
    with pytest.raises(GateFailed, match="better by at least"):
        ask(score, exactMatch=value - 1e-6, baseline={"exactMatch": before})


def test_without_any_score_nothing_passes() -> None:
    with pytest.raises(GateFailed, match="evalLoss was not measured"):
        pass_gate(Gate.model_validate({"scores": [{"metric": "EvalLoss", "atMost": 9}]}), {})
