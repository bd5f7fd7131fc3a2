"""The user's scorers: how they ended, and what is told of it. None of them is started again for
what it did itself; a node that took them away is another matter."""

from __future__ import annotations

from dataclasses import replace

from ..api.redaction import redact
from ..api.types import FineTuneJobStatus, Reason, Scorer, ScorerStatus, StageName
from ..observed import ChildPod, Termination
from .attempts import waiting
from .ending import POLL_SECONDS
from .facts import Facts, Verdict
from .failure import LOST_SIGHT, digest_of_vanished
from .outcome import next_stage
from .restart import restart_or_end
from .scorer_words import NoNumbersError, read_numbers

DEADLINE = "DeadlineExceeded"
"""Reason of a pod, and of a Job, that took too long."""
KILLED = (137, 143)
MAX_MESSAGE = 2048
MAX_WORDS = 300
"""Characters of a scorer's own last words."""


def scorers_ended(facts: Facts) -> Verdict | None:
    """All scorers have ended, or their time is over: the model goes on to its gate."""
    stage, job = facts.stage, facts.stage.job
    over = job is not None and bool(job.complete or job.failure or job.failing)
    if stage.name is not StageName.SCORE or job is None or not over:
        return None
    pods = (*facts.observed.last_words, *stage.pods)
    if any(pod.disruption or _lost_sight(pod) for pod in pods):
        return None  # none of their doing: see job_failed
    pod = next((pod for pod in pods if pod.ended or pod.overdue or pod.overfull), None)
    ended = dict(pod.ended) if pod else {}
    late = pod is not None and pod.overdue
    late = late or (job.failure or job.failing or ("", ""))[0] == DEADLINE
    missing = [scorer for scorer in facts.known_plan.scorers if scorer.name not in ended]
    killed = _killed(facts, pod, late=late)
    if missing and not killed:
        return restart_or_end(facts, digest_of_vanished(facts)) if job.complete else None
    if facts.live_pods:
        return replace(waiting(facts, StageName.SCORE), again_after=POLL_SECONDS)
    found = tuple(
        _outcome(facts, scorer, ended.get(scorer.name), killed)
        for scorer in facts.known_plan.scorers
    )
    return next_stage(facts, StageName.EXPORT, {"scored": facts.now, "scorers": found})


def scored(facts: Facts, status: FineTuneJobStatus) -> tuple[str, str, str]:
    """Condition Scored."""
    told = status.scorers or ()
    if failed := [scorer for scorer in told if scorer.failure]:
        message = "; ".join(f"scorer {scorer.name} {scorer.failure}" for scorer in failed)
        return "False", Reason.SCORER_FAILED.value, message[:MAX_MESSAGE]
    if told:
        return "True", Reason.SCORED.value, "; ".join(map(_tell, told))[:MAX_MESSAGE]
    if facts.plan is not None and not facts.plan.scorers:
        return "Unknown", Reason.NO_SCORERS.value, ""
    running = status.score_attempt is not None and status.completion_time is None
    return "Unknown", (Reason.SCORING if running else Reason.PENDING).value, ""


def _lost_sight(pod: ChildPod) -> bool:
    """The node restarted under it."""
    return any(end.reason in LOST_SIGHT for _, end in pod.ended)


def _killed(facts: Facts, pod: ChildPod | None, *, late: bool) -> str:
    """Why Kubernetes ended the scorers that were still at work; empty: it did not."""
    if pod is not None and pod.overfull:
        return f"was evicted: {pod.overfull} (raise its resources.limits.ephemeral-storage)"
    if not late:
        return ""
    generation = facts.spec.evaluation.generation
    limit = generation.scorer_deadline_seconds if generation else 0
    return f"was not done within {limit} s (spec.evaluation.generation.scorerDeadlineSeconds)"


def _outcome(facts: Facts, scorer: Scorer, end: Termination | None, killed: str) -> ScorerStatus:
    if end is None or (killed and end.exit_code in KILLED):
        return ScorerStatus(name=scorer.name, failure=killed[:512])
    if end.exit_code != 0:
        return ScorerStatus(name=scorer.name, failure=redact(_death(end)))
    try:
        numbers = read_numbers(end.message)
    except NoNumbersError as error:
        return ScorerStatus(name=scorer.name, failure=redact(f"said no numbers: {error}")[:512])
    return ScorerStatus(name=scorer.name, tuned=numbers["tuned"], base=numbers.get("base"))


def _death(end: Termination) -> str:
    if end.reason == "OOMKilled":
        return "went over its memory limit: raise its resources.limits.memory"
    lines = [line.strip() for line in end.message.splitlines() if line.strip()]
    words = f": {lines[-1][:MAX_WORDS]}" if lines else ""
    return f"ended with exit code {end.exit_code}{words}"


def _tell(scorer: ScorerStatus) -> str:
    base = scorer.base or {}
    numbers = (
        f"{name} {value}" + (f" (untouched model: {base[name]})" if name in base else "")
        for name, value in (scorer.tuned or {}).items()
    )
    return f"{scorer.name}: {', '.join(numbers)}"
