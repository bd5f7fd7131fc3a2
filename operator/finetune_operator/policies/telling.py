"""Which transitions become an Event, and what the status remembers of that.

Events outlive neither an hour in the cluster nor a restart in the operator's memory, so the limit
counts in the status, in the same write as the transition itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..api.types import MAX_EVENTS, ConditionType, Reason
from ..objects.event import build_event
from .facts import Facts, State, Verdict
from .fit import HARMFUL

GOES_ON_ALL_THE_SAME = (Reason.STEPS_SKIPPED, Reason.CHECKPOINT_DAMAGED, *HARMFUL)
"""Reasons of jobs that go on, or have succeeded, and of which somebody should know."""


def event_of(facts: Facts, verdict: Verdict) -> Mapping[str, Any] | None:
    """An Event for each change of the reason: transitions, never progress.

    What is well is told once in a job's life, warnings each time. The last one is kept for the end.
    """
    told = facts.status.events or ()
    main, reason, message = ConditionType.RECONCILING, str(verdict.reason), verdict.message
    if (stalled := verdict.conditions.get(ConditionType.STALLED)) is not None:
        main, (_, reason, message) = ConditionType.STALLED, stalled
    same = facts.condition(main)[1] == reason
    if verdict.quiet or (same and not _stops(facts, verdict)):
        return None
    warning = (
        verdict.state in (State.STUCK, State.FAILED)
        or verdict.pending_reason is not None
        or verdict.reason in GOES_ON_ALL_THE_SAME
    )
    room = len(told) < MAX_EVENTS - (not verdict.state.terminal)
    if not room or (reason in told and not warning):
        return None
    return build_event(
        facts.key,
        facts.job.uid,
        warning=warning,
        reason=reason,
        message=message,
        now=facts.now,
    )


def _stops(facts: Facts, verdict: Verdict) -> bool:
    """The job ends, or moves no more by itself: told, whatever was said on the way there."""
    if verdict.state.terminal:
        return facts.status.completion_time is None
    return verdict.state is State.STUCK and facts.condition(ConditionType.STALLED)[0] != "True"


def with_event(facts: Facts, event: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Reasons told so far, that of ``event`` among them."""
    told = facts.status.events
    return told if event is None else (*(told or ()), str(event["reason"]))
