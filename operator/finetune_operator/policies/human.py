"""Human evaluation: a trained model waits for ratings, and what they say decides about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..api.blinding import tuned_first
from ..api.types import (
    ConditionType,
    Failure,
    HumanEvaluation,
    HumanGate,
    Phase,
    Reason,
    StageName,
    decimal_string,
)
from ..reports import LastWords, RatingReport
from .attempts import waiting, write_ahead
from .ending import end_job
from .facts import Facts, State, Verdict
from .ratings import find_fault, tally

GATE_FAILED = "GateFailed"
POLL_SECONDS = 30.0
"""So often is the ConfigMap looked at while a job waits for it."""
LATE_POLL_SECONDS = 120.0
"""And after the end of a job that did not wait."""
LATE_SECONDS = 30 * 86_400.0
"""So long after its end are ratings read."""
MAX_PROBLEM = 900
"""Characters; a sentence around it has to fit into a condition."""
RESULTS = (
    "ratings", "raters", "wins", "losses", "ties", "both_bad", "win_rate", "agreement", "problem",
)  # fmt: skip


def wants_ratings(facts: Facts) -> bool:
    """The ConfigMap can change something: the job waits for it, or has ended well without."""
    told = facts.status.human_evaluation
    if told is None or told.bundle is None or told.accepted_time is not None:
        return False
    ended = facts.status.completion_time
    if ended is None:
        return _waits(facts)
    late = facts.seconds_since(ended) > LATE_SECONDS
    return facts.status.phase is Phase.SUCCEEDED and not late


def awaiting_ratings(facts: Facts) -> Verdict | None:
    """The model is trained and held back; people decide about it, and no pod is there meanwhile."""
    told = facts.status.human_evaluation
    if told is None or not _waits(facts):
        return None
    result = count(facts, told)
    if result.problem is not None:
        return _hold(facts, result)
    gate = _gate(facts)
    if gate is None or not _enough(gate, result):
        return _hold(facts, result)
    if _win_rate(result) >= float(gate.min_win_rate):
        passed = result.model_copy(update={"accepted_time": facts.now})
        verdict = waiting(facts, StageName.EXPORT, changes={"human_evaluation": passed})
        return replace(verdict, final=True)
    message = (
        f"the model is not published, because {result.finding} and has to be at least "
        f"{gate.min_win_rate} (spec.gate.human.minWinRate)"
    )
    failure = Failure(
        failure_class=GATE_FAILED,
        stage=StageName.EXPORT,
        attempt=facts.stage.attempt,
        message=message,
        hint="the trained weights stay in the folder of the attempt; the table of answers may tell "
        "what to change",
        at=facts.now,
    )
    verdict = end_job(facts, GATE_FAILED, message, failure=failure)
    return replace(verdict, changes={**verdict.changes, "human_evaluation": result})


def held_back(facts: Facts, words: LastWords | None, numbers: dict[str, Any]) -> Verdict | None:
    """Export has written the bundle and no model: the attempt that will publish is written ahead.

    None: there is no bundle in its words. ``numbers``: what else its words change in the status.
    """
    told = bundle(facts, words)
    if told is None:
        return None
    number = (facts.stage.attempt or 0) + 1
    ahead = {**write_ahead(facts, StageName.EXPORT, number), **numbers, "failure": None}
    verdict = _hold(facts, told)
    return replace(verdict, changes={**ahead, **verdict.changes}, final=True)


def needs_ratings(facts: Facts) -> bool:
    """The gate asks people, and they have not let the model pass yet."""
    told = facts.status.human_evaluation
    return _gate(facts) is not None and (told is None or told.accepted_time is None)


def bundle(facts: Facts, words: LastWords | None) -> HumanEvaluation | None:
    """What export said of the blind comparison."""
    report: RatingReport | None = words.rating if words else None
    if report is None or facts.spec.evaluation.human is None:
        return None
    return HumanEvaluation(
        uri=f"{facts.known_plan.output_uri}/rating",
        bundle=report.bundle,
        items=report.items,
        same=report.same,
        config_map=facts.known_plan.ratings_name,
    )


def with_late_ratings(facts: Facts, verdict: Verdict) -> Verdict:
    """What people say of a model that was published without waiting for them."""
    told = facts.status.human_evaluation
    if told is None or facts.plan is None or not wants_ratings(facts):
        return verdict
    times = (LATE_POLL_SECONDS, verdict.again_after)
    # Whoever tidies up the ConfigMap does not take back what was said.
    news = {"human_evaluation": count(facts, told)} if facts.ratings is not None else {}
    return replace(
        verdict,
        changes={**news, **verdict.changes},
        again_after=min(seconds for seconds in times if seconds is not None),
    )


def count(facts: Facts, told: HumanEvaluation) -> HumanEvaluation:
    """``told``, with what the ratings say now. One wrong file and none of them counts: nothing is
    decided on a part of what people said."""
    nothing = told.model_copy(update=dict.fromkeys(RESULTS))
    ratings, items = facts.ratings, told.items or 0
    if ratings is None or told.bundle is None:
        return nothing
    if fault := find_fault(ratings, told.bundle, items):
        problem = f"ConfigMap {told.config_map}: {fault}"[:MAX_PROBLEM]
        return nothing.model_copy(update={"problem": problem})
    first = tuned_first(facts.job.uid, facts.spec.training.seed, items)
    votes = tally(ratings, first, items)
    rate, agreement = votes.win_rate, votes.agreement
    return nothing.model_copy(
        update={
            "ratings": votes.ratings,
            "raters": votes.raters,
            "wins": votes.wins,
            "losses": votes.losses,
            "ties": votes.ties,
            "both_bad": votes.both_bad,
            "win_rate": None if rate is None else decimal_string(rate, 4),
            "agreement": None if agreement is None else decimal_string(agreement, 4),
        }
    )


def _hold(facts: Facts, told: HumanEvaluation) -> Verdict:
    message = _what_is_missing(facts, told)
    reason = Reason.RATINGS_INVALID if told.problem else Reason.WAITING_FOR_RATINGS
    return Verdict(
        phase=Phase.EXPORTING,
        state=State.STUCK if told.problem else State.RUNNING,
        reason=reason,
        message=message,
        pending_reason=message,
        changes={"human_evaluation": told},
        conditions={ConditionType.GATE_PASSED.value: ("Unknown", reason.value, message)},
        again_after=POLL_SECONDS,
    )


def _what_is_missing(facts: Facts, told: HumanEvaluation) -> str:
    if told.problem:
        return f"the model waits unpublished, because its ratings cannot be read: {told.problem}"
    gate = _gate(facts)
    ratings = f"{told.ratings or 0} of {gate.min_ratings if gate else 0} ratings"
    raters = f"by {told.raters or 0} of {gate.min_raters if gate else 0} raters"
    return (
        f"the model waits unpublished for people, with {ratings} {raters}: they open "
        f"{told.uri}/rate.html ({told.items} items), and the files that it saves go into ConfigMap "
        f"{told.config_map}"
    )


def _waits(facts: Facts) -> bool:
    return (
        facts.plan is not None
        and facts.stage.name is StageName.EXPORT
        and facts.stage.job is None
        and facts.status.human_evaluation is not None
        and needs_ratings(facts)
    )


def _gate(facts: Facts) -> HumanGate | None:
    return facts.spec.gate.human if facts.spec.gate else None


def _enough(gate: HumanGate, result: HumanEvaluation) -> bool:
    return (result.ratings or 0) >= gate.min_ratings and (result.raters or 0) >= gate.min_raters


def _win_rate(result: HumanEvaluation) -> float:
    """Not rounded, as it is in status: 0.59996 is less than 0.6."""
    even = (result.ties or 0) + (result.both_bad or 0)
    return ((result.wins or 0) + even / 2) / (result.ratings or 1)
