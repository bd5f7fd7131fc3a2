"""A queue takes its quota back: the attempt is over, and the next one queues anew."""

from __future__ import annotations

from ..api.types import ConditionType, Phase, Reason
from .attempts import NOT_READY, overdue
from .ending import POLL_SECONDS, delete_jobs, name_pods
from .facts import Facts, State, Verdict, record_job
from .failure import digest, tell
from .queue import held_by_queue
from .restart import reason_to_stop, restart_or_end


def evicted(facts: Facts) -> Verdict | None:
    """The gang was there and its Job is suspended again. The Job goes at once, while its pods still
    save: admitted again, it would send a second gang into the attempt of the first."""
    if not held_by_queue(facts) or facts.status.next_attempt_time is not None:
        return None
    if not _gang_was_there(facts):
        return None
    failure = digest(facts)
    if not facts.live_pods:
        return restart_or_end(facts, failure)
    others = name_pods(facts.live_pods)
    return Verdict(
        phase=(facts.status.phase or Phase.TRAINING)
        if reason_to_stop(facts, failure)
        else Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.DRAINING,
        message=f"{tell(failure)}; waiting until its pods have saved and gone",
        changes={**record_job(facts), "failure": failure},
        conditions=NOT_READY,
        actions=delete_jobs(facts.live_jobs),
        pending_reason=f"waiting for {others} to end" if overdue(facts) else None,
        again_after=POLL_SECONDS,
        quiet=True,
    )


def _gang_was_there(facts: Facts) -> bool:
    """By its pods, by the Job's count of them, by what was told before, or in Kueue's words."""
    stage, said = facts.stage, facts.observed.admission
    if stage.job is None:
        return False
    pods = any(pod.job_uid == stage.job.uid for pod in facts.observed.pods)
    told = facts.condition(ConditionType.GANG_READY)[0] == "True"
    taken_back = said is not None and said.evicted is not None
    return bool(pods or facts.observed.last_words or stage.job.failed or told or taken_back)
