"""After a failure: another attempt, or the end of the job.

``STOPS`` are the reasons against another attempt, in order; the first one that holds ends the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..api.failures import Budget
from ..api.types import Failure, PastFailure, Phase, Reason, StageName
from .attempts import NOT_READY
from .budget import CAUSES, FIELDS, allowed, payer, spent
from .deadline import is_over, sentence
from .ending import end_job
from .facts import Facts, State, Verdict, backoff, record_job
from .failure import tell
from .history import failures_in_a_row, resumption_changes, spend
from .numbers import reported_start


@dataclass(frozen=True)
class Stop:
    """Why no other attempt follows."""

    reason: str
    message: str


def would_only_repeat(facts: Facts, failure: Failure) -> Stop | None:
    """The class says that another attempt meets the same settings, data or volume."""
    if payer(failure) is not Budget.NONE:
        return None
    return Stop(failure.failure_class or Reason.UNKNOWN_FAILURE.value, tell(failure))


def time_is_up(facts: Facts, failure: Failure) -> Stop | None:
    """``activeDeadlineSeconds`` wins over another attempt."""
    if not is_over(facts):
        return None
    return Stop(Reason.DEADLINE_EXCEEDED.value, f"{sentence(facts)}; {tell(failure)}")


def no_budget_was_given(facts: Facts, failure: Failure) -> Stop | None:
    """The user wants to see the first failure of this kind."""
    if allowed(facts, payer(failure)) > 0:
        return None
    return Stop(failure.failure_class or Reason.UNKNOWN_FAILURE.value, tell(failure))


def repeats_itself(facts: Facts, failure: Failure) -> Stop | None:
    """The program failed like this before, at the same place."""
    if payer(failure) is not Budget.PROGRAM:
        return None
    for past in facts.status.past_failures or ():
        if _same(past, failure):
            where = f" at step {failure.step}" if failure.stage is StageName.TRAIN else ""
            return Stop(
                Reason.REPEATED_FAILURE.value,
                f"{tell(failure)}; attempt {past.attempt} failed in the same way{where}, so no "
                "other one is made",
            )
    return None


def budget_is_spent(facts: Facts, failure: Failure) -> Stop | None:
    """As many restarts were made as the budget pays for."""
    budget = payer(failure)
    used, limit = spent(facts, budget), allowed(facts, budget)
    if used < limit:
        return None
    return Stop(
        Reason.RESTARTS_EXHAUSTED.value,
        f"{tell(failure)}; {used} restarts after {CAUSES[budget]} did not help "
        f"({FIELDS[budget]}: {limit})",
    )


STOPS: tuple[Callable[[Facts, Failure], Stop | None], ...] = (
    would_only_repeat,
    time_is_up,
    no_budget_was_given,
    repeats_itself,
    budget_is_spent,
)


def reason_to_stop(facts: Facts, failure: Failure) -> Stop | None:
    """Why this failure is the last one; None: another attempt follows."""
    return next((stop for rule in STOPS if (stop := rule(facts, failure)) is not None), None)


def restart_or_end(facts: Facts, failure: Failure) -> Verdict:
    """What follows from a failure whose pods are gone."""
    resumed = resumption_changes(facts, reported_start(facts))
    stop = reason_to_stop(facts, failure)
    if stop is None:
        return _restart(facts, failure, resumed)
    end = end_job(facts, stop.reason, stop.message, failure=failure)
    return replace(end, changes={**end.changes, **resumed})


def _restart(facts: Facts, failure: Failure, resumed: Mapping[str, Any]) -> Verdict:
    budget, pauses = payer(failure), facts.spec.recovery.backoff_seconds
    status = facts.status.model_copy(update=dict(resumed))
    pause = backoff(pauses.initial, failures_in_a_row(status, failure), pauses.max)
    used, limit = spent(facts, budget) + 1, allowed(facts, budget)
    asleep = facts.spec.suspend
    when = "once spec.suspend is false" if asleep else f"in {int(pause.total_seconds())} s"
    message = (
        f"trying again {when} (restart {used} of {limit} after {CAUSES[budget]}, "
        f"{FIELDS[budget]}): {tell(failure)}"
    )
    return Verdict(
        phase=Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.RESTARTING,
        message=message,
        pending_reason=message,
        changes={
            **record_job(facts),
            **resumed,
            **spend(status, failure, budget),
            "failure": failure,
            "next_attempt_time": facts.now + pause,
        },
        conditions=NOT_READY,
        final=True,
    )


def _same(past: PastFailure, failure: Failure) -> bool:
    """A step, or a stage without steps, is the same place. Deaths without a word may differ."""
    if past.failure_class != failure.failure_class or past.stage is not failure.stage:
        return False
    if failure.failure_class == Reason.UNKNOWN_FAILURE:
        return False
    if failure.stage is not StageName.TRAIN:
        return True
    return failure.step is not None and past.step == failure.step
