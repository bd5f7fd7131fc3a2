"""The account of a job's time, brought up to date whenever its status is written.

The time since the last entry is cut at two moments: when all pods of the stage had a node, and when
the first of them ended. The time of a training attempt between them is divided as its trainer
accounts for it, each time for the attempt as a whole: nothing is counted twice, and the next answer
makes good a missed one. Everything is in whole seconds, so that sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ..api.goodput import AT_WORK, STEPS
from ..api.types import Cause, FineTuneJobStatus, Goodput, Reason, StageName, TimeSpent
from ..reports import AccountReport
from .facts import FOR_PEOPLE, Facts, stage_of, stage_record
from .gpu_time import gpu_seconds_since
from .numbers import reported_account

Seconds = dict[Cause, int]

WORK = {
    "init": Cause.INIT,
    "load": Cause.INIT,
    "train": Cause.PRODUCTIVE,
    "recompute": Cause.RECOMPUTE,
    "evaluate": Cause.EVALUATION,
    "checkpoint": Cause.CHECKPOINT,
    "save": Cause.CHECKPOINT,
    "done": Cause.QUEUE,
}
"""The trainer's words for what it does."""
WORK_OF_STAGE = {
    StageName.PREPARE: (Cause.PREPARE,),
    StageName.TRAIN: AT_WORK,
    StageName.SCORE: (Cause.EVALUATION,),
    StageName.EXPORT: (Cause.EXPORT,),
}
"""What the pods of a stage do; the first is what they do unless they say more."""


@dataclass(frozen=True)
class Course:
    """The present attempt's pods in time."""

    placed: datetime | None
    """When the last of them got its node; None: not all have one, or it is not known."""
    over: bool
    """One of them has ended, or is gone."""
    ended: datetime | None
    """When the first one ended; None: none has, or it is not known."""


def account(facts: Facts, decided: FineTuneJobStatus, reason: str) -> Goodput | None:
    """The account up to now. ``decided``: the status that is being written, for ``reason``."""
    if facts.status.completion_time is not None:
        return facts.status.goodput
    if decided.start_time is None:
        return None
    known = _known(facts, _whole(decided.start_time))
    now, current = max(known.until, _whole(facts.now)), known.current or Cause.QUEUE
    course, works = observe(facts), WORK_OF_STAGE[facts.stage.name]
    idle = current in (Cause.RESTART, Cause.SUSPENDED) or facts.status.next_attempt_time is not None
    rest = current if idle else _after(facts, decided, reason)
    end = now if course.ended is None or idle else _between(known.until, course.ended, now)
    begin = end if course.placed is None or idle else _between(known.until, course.placed, end)
    if current in works:
        begin = known.until
    work = {current if current in works else works[0]: _length(begin, end)}
    around = _sum({current: _length(known.until, begin)}, {rest: _length(end, now)})
    seconds = _sum(known.seconds.by_cause(), around, work)
    attempt: Seconds | None = None
    if facts.stage.name is StageName.TRAIN and (known.attempt or course.placed):
        assumed = _sum(known.attempt.by_cause() if known.attempt else {}, work)
        attempt, report = assumed, reported_account(facts)
        # After a failure, words of the end come one by one; after that nothing is news any more.
        if report and (not idle or (current is Cause.RESTART and course.ended)):
            last = min(now, course.ended or now)
            lost = rest if course.over else None
            attempt = divide(sum(assumed.values()), report, last, lost)
        seconds = _sum(seconds, attempt, {cause: -count for cause, count in assumed.items()})
    same = _attempt_of(decided) == _attempt_of(facts.status)
    following = _current(facts, decided, course, rest) if same else Cause.QUEUE
    if reason in FOR_PEOPLE:
        following = Cause.SUSPENDED
    return Goodput(
        until=now,
        current=following,
        seconds=TimeSpent.of(seconds),
        attempt=TimeSpent.of(attempt) if same and attempt is not None else None,
        gpu_seconds=known.gpu_seconds + gpu_seconds_since(facts, known, now),
    )


def observe(facts: Facts) -> Course:
    """What the pods of the present attempt tell about its time."""
    stage, job = facts.stage, facts.stage.job
    pods = {pod.uid: pod for pod in (*facts.observed.last_words, *stage.pods)}.values()
    wanted = facts.plan.pods(stage.name) if facts.plan else None
    scheduled = {pod.index: pod.scheduled for pod in pods if pod.scheduled is not None}
    ends = [pod.terminated.finished for pod in pods if pod.terminated and pod.terminated.finished]
    over = stage.job_uid is not None if job is None else job.deleting or job.finished
    return Course(
        placed=max(scheduled.values()) if wanted and len(scheduled) >= wanted else None,
        over=over or bool(job and job.failing) or any(pod.finished for pod in pods),
        ended=min(ends, default=None),
    )


def divide(seconds: int, report: AccountReport, end: datetime, lost: Cause | None) -> Seconds:
    """``seconds`` of a whole gang, which are over at ``end``, divided as its trainer says.

    What the trainer does not account for lies before its first word: containers had to start.
    ``lost``: the gang is over, and a step that was cut off is accounted for as this.
    """
    parts: dict[Cause, float] = {}
    for word, count in report.seconds.items():
        cause = WORK.get(word, Cause.INIT)
        parts[cause] = parts.get(cause, 0.0) + count
    doing = WORK.get(report.doing, Cause.INIT)
    if lost and doing in STEPS:
        doing = lost
    going_on = min(float(seconds), max(0.0, end.timestamp() - report.at))
    parts[doing] = parts.get(doing, 0.0) + going_on
    parts.pop(Cause.INIT, None)
    told = sum(parts.values())
    if told > seconds:  # the clocks differ, or the account is wrong
        parts = {cause: count * seconds / told for cause, count in parts.items()}
    # Each running sum is rounded, so that no error is longer than a second or adds up.
    whole: Seconds = {}
    summed, before = 0.0, 0
    for cause, count in parts.items():
        summed += count
        whole[cause] = round(summed) - before
        before = round(summed)
    return {Cause.INIT: seconds - before, **whole}


def _known(facts: Facts, start: datetime) -> Goodput:
    """The stored account; a new one where there is none, or one that does not add up."""
    known = facts.status.goodput
    if known is None or known.seconds.total != _length(start, known.until):
        return Goodput(until=start, current=Cause.QUEUE)
    seconds, attempt = known.seconds.by_cause(), known.attempt
    if attempt and any(count > seconds[cause] for cause, count in attempt.by_cause().items()):
        return known.model_copy(update={"attempt": None})
    return known


def _after(facts: Facts, decided: FineTuneJobStatus, reason: str) -> Cause:
    """What the time after the end of the present attempt is spent on."""
    held = decided.suspend_time is not None or reason == Reason.BUDGET_EXCEEDED
    if held or facts.job.spec.get("suspend") is True:
        return Cause.SUSPENDED
    well = _ended_well(facts) or reason == Reason.START_TIMEOUT
    return Cause.QUEUE if well else Cause.RESTART


def _ended_well(facts: Facts) -> bool:
    """The work of the present attempt is done, or some of its pods have done theirs and no pod has
    failed yet: Kubernetes calls a Job complete a moment after its last pod has ended."""
    job = facts.stage.job
    if job is None:
        return False
    if job.complete:
        return True
    pods = (*facts.observed.last_words, *facts.stage.pods)
    codes = {pod.terminated.exit_code for pod in pods if pod.terminated}
    return codes == {0} and not (job.failing or job.failure or job.deleting)


def _current(facts: Facts, decided: FineTuneJobStatus, course: Course, rest: Cause) -> Cause | None:
    """What the time after this write is spent on."""
    known, works = facts.status.goodput, WORK_OF_STAGE[facts.stage.name]
    if decided.completion_time is not None:
        return None
    if decided.suspend_time is not None:
        return Cause.SUSPENDED
    if course.over and course.ended is None and facts.live_pods and known:  # they are ending
        return known.current or Cause.QUEUE
    if course.over or decided.next_attempt_time is not None:
        return rest
    if course.placed is None and (known is None or known.attempt is None):
        return Cause.QUEUE
    report = reported_account(facts) if facts.stage.name is StageName.TRAIN else None
    return WORK.get(report.doing, Cause.INIT) if report else works[0]


def _attempt_of(status: FineTuneJobStatus) -> tuple[StageName, int | None]:
    stage = stage_of(status)
    return stage, stage_record(status, stage)[0]


def _sum(*accounts: Seconds) -> Seconds:
    causes = {cause for each in accounts for cause in each}
    return {cause: sum(each.get(cause, 0) for each in accounts) for cause in causes}


def _between(low: datetime, moment: datetime, high: datetime) -> datetime:
    return min(high, max(low, _whole(moment)))


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _length(begin: datetime, end: datetime) -> int:
    return int((end - begin).total_seconds())
