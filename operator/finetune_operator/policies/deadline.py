"""``activeDeadlineSeconds``: an upper bound on the time a job may take."""

from __future__ import annotations

from ..api.types import ConditionType, Failure, Reason
from .ending import end_job
from .facts import FOR_PEOPLE, Facts, Verdict


def seconds_left(facts: Facts) -> float | None:
    """Seconds until the deadline; None: there is none, or its clock stands still."""
    limit, start = facts.job.spec.get("activeDeadlineSeconds"), facts.status.start_time
    if not isinstance(limit, int) or start is None or facts.status.suspend_time is not None:
        return None
    return limit - (facts.seconds_since(start) - (facts.status.suspended_seconds or 0))


def is_over(facts: Facts) -> bool:
    """The time is up."""
    left = seconds_left(facts)
    return left is not None and left <= 0


def sentence(facts: Facts) -> str:
    """What the end of the time means, and what to do."""
    seconds = facts.job.spec["activeDeadlineSeconds"]
    limit = f"spec.activeDeadlineSeconds: not done within {seconds} s"
    if facts.condition(ConditionType.GATE_PASSED)[1] in FOR_PEOPLE:
        return (
            f"{limit}, because the ratings that spec.gate.human asks for did not come; the model "
            "is not published, and the trained weights stay in the folder of the attempt"
        )
    return (
        f"{limit}; the last checkpoint is kept: raise the limit in a new job, or train fewer steps"
    )


def deadline_exceeded(facts: Facts) -> Verdict | None:
    """The time is up: pods save a checkpoint on SIGTERM, then the job has failed."""
    if not is_over(facts):
        return None
    message = sentence(facts)
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
