"""The gang changes its size: it ends, and the next attempt has another number of workers."""

from __future__ import annotations

from ..api.types import ConditionType, Phase, Reason, Resize, StageName
from .attempts import NOT_READY, gang_ready
from .elastic import fewer, more, resize_changes, seconds_until_fewer, seconds_until_more
from .ending import POLL_SECONDS, delete_jobs
from .facts import RUNNING_PHASES, Facts, State, Verdict, record_job


def too_little_room(facts: Facts) -> Verdict | None:
    """Some pods of an elastic gang have had no node for long enough: go on without them."""
    if facts.stage.job is None or gang_ready(facts):
        return None
    left = seconds_until_fewer(facts)
    resize = fewer(facts) if left is not None and left <= 0 else None
    if resize is None:
        return None
    message = f"going on with {_change(resize)}: {resize.reason}"
    return Verdict(
        phase=Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.RESIZED,
        message=message,
        pending_reason=message,
        changes={
            **record_job(facts),
            **resize_changes(facts, resize),
            "start_timeouts": None,
            "next_attempt_time": facts.now,
        },
        conditions=NOT_READY,
        final=True,
    )


def growing(facts: Facts) -> Verdict | None:
    """A gang that is smaller than it may be has trained for long enough: it saves and ends, and the
    next attempt is larger."""
    ending = facts.condition(ConditionType.RECONCILING)[1] == Reason.RESIZING
    if facts.stage.name is not StageName.TRAIN:
        return None
    left = seconds_until_more(facts)
    if not ending and (left is None or left > 0):
        return None
    resize = more(facts)
    change = f"going on with {_change(resize)}" if resize else "going on"
    if facts.live_jobs or facts.live_pods:
        return Verdict(
            phase=facts.status.phase or RUNNING_PHASES[facts.stage.name],
            state=State.MOVING,
            reason=Reason.RESIZING,
            message=f"saving a checkpoint before {change}",
            changes=record_job(facts),
            actions=delete_jobs(facts.live_jobs),
            again_after=POLL_SECONDS,
        )
    return Verdict(
        phase=Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.RESIZED,
        message=f"{change}, from the newest checkpoint",
        changes={
            **record_job(facts),
            **(resize_changes(facts, resize) if resize else {}),
            "next_attempt_time": facts.now,
        },
        conditions=NOT_READY,
        quiet=True,
        final=True,
    )


def _change(resize: Resize) -> str:
    return f"{resize.workers} instead of {resize.workers_before} workers ({resize.wanted} wanted)"
