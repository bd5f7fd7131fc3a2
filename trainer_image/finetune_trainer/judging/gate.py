"""The gate: what a model has to reach before it is published. Pure functions of its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_trainer.config import Forgetting, Gate, GateScore
from finetune_trainer.errors import GateFailed
from finetune_trainer.judging.margin import reaches
from finetune_trainer.judging.scorers import ScorerWords, faults_of_bound, told_of_bound
from finetune_trainer.judging.scores import NAMES

_ON_TOKENS = {"EvalLoss": "evalLoss", "Perplexity": "perplexity", "TokenAccuracy": "tokenAccuracy"}
_LOWER_IS_BETTER = ("EvalLoss", "Perplexity")
_GENERAL = "generalLoss"


def pass_gate(gate: Gate, metrics: Mapping[str, Any], said: Sequence[ScorerWords] = ()) -> str:
    """What it was passed by, with numbers. ``metrics``: the final ones, with ``baseline``;
    ``said``: by the scorers.

    Raises ``GateFailed`` with every score that keeps it shut; one that was not measured does.
    """
    base = metrics.get("baseline") or {}
    faults = [fault for score in gate.scores for fault in _faults(score, metrics, base)]
    faults += [fault for bound in gate.scorers for fault in faults_of_bound(bound, said)]
    faults += _forgotten(gate.forgetting, metrics, base)
    if faults:
        raise _shut("; ".join(faults))
    people = [gate.human.finding] if gate.human and gate.human.finding else []
    kept = [_told_of_general(metrics, base)] if gate.forgetting else []
    scored = [told_of_bound(bound, said) for bound in gate.scorers]
    reached = [_reached(score, metrics, base) for score in gate.scores]
    return "; ".join([*reached, *scored, *kept, *people])


def waits_for_people(gate: Gate | None, bundle: str | None) -> bool:
    """People have to decide and have not yet. ``bundle``: digest of what they are to rate.

    Raises ``GateFailed`` where they have nothing to rate, or have rated something else.
    """
    if gate is None or gate.human is None:
        return False
    if bundle is None:
        raise _shut(
            "people are to compare its answers with those of the untouched model, and these do not "
            "differ, or are not there"
        )
    if gate.human.finding is None:
        return True
    if gate.human.bundle != bundle:
        raise _shut(
            f"people have rated another bundle ({gate.human.bundle}) than the answers of this "
            f"attempt are ({bundle})"
        )
    return False


def _shut(why: str) -> GateFailed:
    return GateFailed(
        f"the model is not published, because {why}",
        "the trained weights stay in the folder of the attempt; condition Overfitting and the "
        "table of answers may tell what to change",
    )


def _faults(score: GateScore, metrics: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    name = _name(score)
    value, before = metrics.get(name), base.get(name)
    if value is None:
        yield f"{name} was not measured"
        return
    # Not "value < bound": NaN must not pass.
    if score.at_least is not None and not value >= score.at_least:
        yield f"{name} is {value:.4g} and has to be at least {score.at_least:g}"
    if score.at_most is not None and not value <= score.at_most:
        yield f"{name} is {value:.4g} and has to be at most {score.at_most:g}"
    if score.min_improvement is None:
        return
    if before is None:
        yield f"{name} of the untouched model was not measured"
    elif not reaches(_gain(score, value, before), score.min_improvement):
        yield (
            f"{name} is {value:.4g} after {before:.4g} of the untouched model and has to be better "
            f"by at least {score.min_improvement:g}"
        )


def _forgotten(
    bound: Forgetting | None, metrics: Mapping[str, Any], base: Mapping[str, Any]
) -> Iterator[str]:
    if bound is None:
        return
    loss, before = metrics.get(_GENERAL), base.get(_GENERAL)
    if loss is None or before is None:
        model = "the untouched" if loss is not None else "the tuned"
        yield f"{_GENERAL} of {model} model was not measured"
    elif not reaches(before - loss, -bound.max_loss_increase):
        yield (
            f"{_told_of_general(metrics, base)} and may lie at most "
            f"{bound.max_loss_increase:g} above that"
        )


def _told_of_general(metrics: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    return (
        f"{_GENERAL} is {metrics[_GENERAL]:.4g} after {base[_GENERAL]:.4g} of the untouched model"
    )


def _gain(score: GateScore, value: float, before: float) -> float:
    return before - value if score.metric in _LOWER_IS_BETTER else value - before


def _reached(score: GateScore, metrics: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    name = _name(score)
    before = f" (untouched model: {base[name]:.4g})" if name in base else ""
    return f"{name} is {metrics[name]:.4g}{before}"


def _name(score: GateScore) -> str:
    return _ON_TOKENS.get(score.metric) or NAMES[score.metric]
