"""``suspend``: stop the present stage after a checkpoint, give the pods back, go on later."""

from __future__ import annotations

from ..api.types import ConditionType, Phase, Reason, StageName
from .attempts import NOT_READY
from .elastic import after_sleep, resize_changes
from .ending import POLL_SECONDS, delete_jobs, name_pods
from .facts import RUNNING_PHASES, WAITING_PHASES, Facts, State, Verdict, record_job

STOPPING = (Reason.SUSPENDING.value, Reason.BUDGET_EXCEEDED.value)
"""Reasons for which the present attempt was told to stop."""


def suspended(facts: Facts) -> Verdict | None:
    """The user wants the job to stand still: end the attempt's Job, wait for its pods."""
    if not facts.spec.suspend:
        return None
    if facts.live_jobs or facts.live_pods:
        pods = f": waiting for {name_pods(facts.live_pods)}" if facts.live_pods else ""
        return Verdict(
            phase=_phase_until_suspended(facts),
            state=State.MOVING,
            reason=Reason.SUSPENDING,
            message=f"saving a checkpoint and giving the pods back{pods}",
            changes=record_job(facts),
            actions=delete_jobs(facts.live_jobs),
            again_after=POLL_SECONDS,
        )
    return Verdict(
        phase=Phase.SUSPENDED,
        state=State.SUSPENDED,
        reason=Reason.SUSPENDED,
        message="suspended by spec.suspend; set it to false to go on",
        changes={
            **record_job(facts),
            "suspend_time": facts.status.suspend_time or facts.now,
        },
        conditions=NOT_READY if facts.stage.name is StageName.TRAIN else {},
    )


def resumed(facts: Facts) -> Verdict | None:
    """Nothing keeps the job standing still any more: the next attempt follows, and no restart
    budget pays for it."""
    since = facts.status.suspend_time
    stopping = facts.condition(ConditionType.RECONCILING)[1] in STOPPING
    if since is None and not stopping:
        return None
    counts = since is not None and facts.status.start_time is not None
    resize = after_sleep(facts) if since else None
    slept = max(0, int(facts.seconds_since(since))) if since and counts else 0
    return Verdict(
        phase=WAITING_PHASES[facts.stage.name],
        state=State.MOVING,
        reason=Reason.RESUMED,
        message="going on with the next attempt, from the newest checkpoint",
        changes={
            **record_job(facts),
            "suspend_time": None,
            "suspended_seconds": (facts.status.suspended_seconds or 0) + slept,
            "next_attempt_time": facts.now,
            **(resize_changes(facts, resize, counted=False) if resize else {}),
        },
    )


def _phase_until_suspended(facts: Facts) -> Phase:
    return facts.status.phase or RUNNING_PHASES[facts.stage.name]
