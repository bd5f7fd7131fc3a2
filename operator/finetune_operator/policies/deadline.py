"""``activeDeadlineSeconds``: an upper bound on the time a job may take."""

from __future__ import annotations

from ..api.types import Failure, Reason
from .ending import end_job
from .facts import Facts, Verdict


def seconds_left(facts: Facts) -> float | None:
    """Seconds until the deadline; None: there is none, or its clock stands still."""
    limit, start = facts.job.spec.get("activeDeadlineSeconds"), facts.status.start_time
    if not isinstance(limit, int) or start is None or facts.status.suspend_time is not None:
        return None
    return limit - (facts.seconds_since(start) - (facts.status.suspended_seconds or 0))


def deadline_exceeded(facts: Facts) -> Verdict | None:
    """The time is up: pods save a checkpoint on SIGTERM, then the job has failed."""
    left = seconds_left(facts)
    if left is None or left > 0:
        return None
    limit = facts.job.spec["activeDeadlineSeconds"]
    message = (
        f"spec.activeDeadlineSeconds: not done within {limit} s; the last checkpoint is kept: "
        "raise the limit in a new job, or train fewer steps"
    )
    failure = facts.status.failure
    if failure is None or failure.failure_class != Reason.DEADLINE_EXCEEDED:
        failure = Failure(
            failure_class=Reason.DEADLINE_EXCEEDED.value,
            stage=facts.stage.name,
            attempt=facts.stage.attempt,
            message=message,
            at=facts.now,
        )
    return end_job(facts, Reason.DEADLINE_EXCEEDED, message, failure=failure)
