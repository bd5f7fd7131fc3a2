"""After a failure: another attempt, or the end of the job.

``STOPS`` are the reasons against another attempt, in order; the first one that holds ends the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from ..api.failures import Budget
from ..api.types import (
    Adaptation,
    Failure,
    PassedOver,
    PastFailure,
    Phase,
    Reason,
    Resize,
    StageName,
)
from .attempts import NOT_READY
from .budget import CAUSES, FIELDS, allowed, payer, spent
from .deadline import is_over, sentence
from .elastic import at_boundary, with_another, with_resize
from .ending import end_job
from .facts import Facts, State, Verdict, record_job
from .failure import tell
from .history import failures_in_a_row, resumption_changes, spend
from .memory import foot, may_adapt, smaller
from .numbers import reported_start
from .pause import pause_before_restart
from .rollback import FIELDS as FIELDS_OF_NUMBERS
from .rollback import passed_over, policy, rolled_back, rolls_back, tell_roll_back


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


def nothing_is_left_to_make_smaller(facts: Facts, failure: Failure) -> Stop | None:
    """Training ran out of memory at the foot of the ladder."""
    done = facts.known_plan.resolved.adaptations
    if not done or not may_adapt(facts, failure):
        return None
    return Stop(
        failure.failure_class or Reason.UNKNOWN_FAILURE.value,
        f"{tell(failure)}; nothing is left to make smaller after {done[-1].change}: {foot(facts)}",
    )


def numbers_end_the_job(facts: Facts, failure: Failure) -> Stop | None:
    """Loss or gradients went bad, and the user wants to see that."""
    if policy(facts, failure) != "Stop":
        return None
    name = str(failure.failure_class)
    return Stop(name, f"{tell(failure)}; {FIELDS_OF_NUMBERS[name]} is Stop")


def rolled_back_often_enough(facts: Facts, failure: Failure) -> Stop | None:
    """As many roll-backs were made as are allowed."""
    done, limit = len(rolled_back(facts)), facts.spec.recovery.max_roll_backs
    if not rolls_back(facts, failure) or done < limit:
        return None
    times = "1 roll-back" if done == 1 else f"{done} roll-backs"
    return Stop(
        str(failure.failure_class),
        f"{tell(failure)}; {times} did not help (spec.recovery.maxRollBacks: {limit})",
    )


def repeats_itself(facts: Facts, failure: Failure) -> Stop | None:
    """The program failed like this before, at the same place."""
    same = [past for past in facts.status.past_failures or () if _same(past, failure)]
    if not same or not (payer(failure) is Budget.PROGRAM or _hangs_by_itself(same, failure)):
        return None
    here = failure.stage is StageName.TRAIN and failure.step == same[0].step is not None
    where = f" at step {failure.step}" if here else ""
    return Stop(
        Reason.REPEATED_FAILURE.value,
        f"{tell(failure)}; attempt {same[0].attempt} failed in the same way{where}, so no "
        "other one is made",
    )


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
    nothing_is_left_to_make_smaller,
    numbers_end_the_job,
    rolled_back_often_enough,
    repeats_itself,
    budget_is_spent,
)
STOPS_OF_ADAPTATION = (time_is_up, no_budget_was_given)
"""Against an attempt that uses less memory or rolls back: it is no repetition, and has an end."""


def reason_to_stop(facts: Facts, failure: Failure) -> Stop | None:
    """Why this failure is the last one; None: another attempt follows."""
    changed = smaller(facts, failure) or passed_over(facts, failure)
    rules = STOPS_OF_ADAPTATION if changed else STOPS
    return next((stop for rule in rules if (stop := rule(facts, failure)) is not None), None)


def restart_or_end(facts: Facts, failure: Failure) -> Verdict:
    """What follows from a failure whose pods are gone."""
    resumed = resumption_changes(facts, reported_start(facts))
    stop = reason_to_stop(facts, failure)
    if stop is None:
        return _restart(facts, failure, resumed)
    end = end_job(facts, stop.reason, stop.message, failure=failure)
    return replace(end, changes={**end.changes, **resumed})


def _restart(facts: Facts, failure: Failure, resumed: Mapping[str, Any]) -> Verdict:
    change, over = smaller(facts, failure), passed_over(facts, failure)
    resize = at_boundary(facts)
    budget = payer(failure)
    if change or over:
        budget = Budget.NONE
    status = facts.status.model_copy(update=dict(resumed))
    pause = pause_before_restart(
        facts.spec.recovery.backoff_seconds, failure, failures_in_a_row(status, failure)
    )
    when = "once spec.suspend is false" if facts.spec.suspend else _soon(pause)
    if over:
        how = tell_roll_back(facts, over)
    else:
        how = f"with less memory in use: {change}" if change else _restarts_so_far(facts, budget)
    if resize:
        how += f"; with {resize.workers} instead of {resize.workers_before} workers"
    message = f"trying again {when} ({how}): {tell(failure)}"
    counted = spend(status, failure, budget, rolled_back=over is not None)
    if resize:
        counted["restarts"] = with_resize(counted["restarts"])
    return Verdict(
        phase=Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.RESTARTING,
        message=message,
        pending_reason=message,
        changes={
            **record_job(facts),
            **resumed,
            **counted,
            **_resolved(facts, failure, change, over, resize),
            "failure": failure,
            "next_attempt_time": facts.now + pause,
        },
        conditions=NOT_READY,
        final=True,
    )


def _soon(pause: timedelta) -> str:
    return f"in {int(pause.total_seconds())} s" if pause else "at once"


def _restarts_so_far(facts: Facts, budget: Budget) -> str:
    used, limit = spent(facts, budget) + 1, allowed(facts, budget)
    return f"restart {used} of {limit} after {CAUSES[budget]}, {FIELDS[budget]}"


def _resolved(
    facts: Facts,
    failure: Failure,
    change: str | None,
    over: PassedOver | None,
    resize: Resize | None,
) -> dict[str, Any]:
    """What is different from now on, remembered: the next plan rests on it. A step down the ladder,
    steps to pass over, another size."""
    resolved = facts.known_plan.resolved
    news: dict[str, Any] = {}
    if change:
        step = Adaptation(
            attempt=failure.attempt, failure_class=failure.failure_class, change=change
        )
        news["adaptations"] = (*(resolved.adaptations or ()), step)
    if over:
        news["passed_over"] = (*rolled_back(facts), over)
    if resize:
        news["resizes"] = with_another(resolved.resizes, resize)
    return {"resolved": resolved.model_copy(update=news)} if news else {}


def _hangs_by_itself(same: Sequence[PastFailure], failure: Failure) -> bool:
    """Also somewhere else, or a third time: neither node nor network, but the program stands still
    there, and each time holds all GPUs for as long as the gang is patient."""
    if failure.failure_class != "Hang":
        return False
    nodes = {failure.node, same[0].node}
    return len(same) > 1 or (None not in nodes and len(nodes) > 1)


def _same(past: PastFailure, failure: Failure) -> bool:
    """A step, or a stage without steps, is the same place. Deaths without a word may differ."""
    if past.failure_class != failure.failure_class or past.stage is not failure.stage:
        return False
    if failure.failure_class == Reason.UNKNOWN_FAILURE:
        return False
    if failure.failure_class == Reason.EPHEMERAL_STORAGE_EXCEEDED:
        return True  # the kubelet measures now and then, so the step says little
    if failure.stage is not StageName.TRAIN:
        return True
    return failure.step is not None and past.step == failure.step
