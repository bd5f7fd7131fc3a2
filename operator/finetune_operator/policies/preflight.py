"""Condition PreflightPassed, and the end of a job that would hold pods for what cannot work."""

from __future__ import annotations

from ..api.types import Failure, FineTuneJobStatus, OnMemoryShortage, Reason, StageName
from ..preflight import fits, tell
from .ending import end_job
from .facts import Facts, Verdict


def preflight(status: FineTuneJobStatus) -> tuple[str, str, str]:
    """Status, reason and message of condition PreflightPassed."""
    memory = status.resolved and status.resolved.memory
    if not memory or memory.predicted_bytes is None:
        return "Unknown", Reason.PENDING.value, ""
    match fits(memory):
        case None:
            return "Unknown", Reason.MEMORY_UNKNOWN.value, tell(memory)
        case True:
            return "True", Reason.MEMORY_FITS.value, tell(memory)
        case False:
            return "False", Reason.MEMORY_SHORT.value, tell(memory)


def memory_short(facts: Facts) -> Verdict | None:
    """The first attempt to train is predicted not to fit, and the policy is not to try."""
    stage = facts.stage
    if stage.name is not StageName.TRAIN or stage.attempt or stage.job or stage.job_uid:
        return None
    if facts.spec.workers.on_memory_shortage is not OnMemoryShortage.FAIL:
        return None
    value, reason, message = preflight(facts.status)
    if value != "False":
        return None
    failure = Failure(
        failure_class="ConfigInvalid", stage=StageName.TRAIN, message=message[:1024], at=facts.now
    )
    return end_job(facts, reason, message, failure=failure)
