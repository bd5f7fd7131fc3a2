"""The vocabulary of decisions: facts go in, a verdict comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cached_property
from typing import Any

from ..api.types import FineTuneJobSpec, FineTuneJobStatus, Phase, Reason, Recovery, StageName
from ..engine.dropped import FieldPath
from ..engine.store import Key
from ..errors import Fault
from ..observed import ChildJob, ChildPod, Observed, StoredJob
from ..plan import TrainingPlan, in_use, stage_job_name
from ..reports import ProgressReport
from .ratings import Ratings
from .silence import is_lost

FOR_PEOPLE = (Reason.WAITING_FOR_RATINGS, Reason.RATINGS_INVALID)
"""Reasons of a job that waits for people to rate it, without a pod."""
ALWAYS = datetime.min.replace(tzinfo=UTC)
LEAST_SILENCE_SECONDS = 45.0
"""A gang is asked for its progress every 10 seconds, and less often where there are many."""


@dataclass(frozen=True)
class Obstacle:
    """Something outside the job is missing or wrong."""

    reason: str
    message: str
    final: bool = False
    """It cannot heal: the job ends. Otherwise the job waits for it."""
    stalled: bool = False
    """Nothing moves until a person acts."""


@dataclass(frozen=True)
class Stage:
    """The stage that a job is in, and its present attempt."""

    name: StageName
    attempt: int | None
    """Number written ahead; None: the stage has not begun."""
    job_uid: str | None
    """UID of the attempt's Job as far as status knows it."""
    job: ChildJob | None
    """That Job, if it is there."""
    pods: tuple[ChildPod, ...]
    """Pods of the attempt that are there."""

    @property
    def live(self) -> bool:
        """Its Job runs, or will."""
        return self.job is not None and not self.job.finished and not self.job.deleting


@dataclass(frozen=True)
class NamespaceBudget:
    """GPU-hours of all jobs of a namespace together."""

    hours: float | None
    """None: what stands there is no number of hours."""
    used_by_others: int
    """GPU-seconds of the other jobs that are there."""


@dataclass(frozen=True)
class PublishedResult:
    """What another job of the namespace has published."""

    job: str
    uid: str
    lock: str
    """Digest of its lock."""
    claim: str
    path: str
    """Folder on that claim."""
    formats: frozenset[str]
    completed: datetime


@dataclass(frozen=True)
class Facts:
    """All that a decision may look at."""

    job: StoredJob
    status: FineTuneJobStatus
    """The stored status; actions may follow only what stands here."""
    plan: TrainingPlan | None
    """None where the spec cannot work; ``faults`` says why."""
    faults: tuple[Fault, ...]
    observed: Observed
    now: datetime
    obstacle: Obstacle | None = None
    """What the spec names and the cluster does not have: claims, sources."""
    refusal: Obstacle | None = None
    """The API server's last answer to a creation, where it was no."""
    progress: ProgressReport | None = None
    heard: datetime | None = None
    """When ``progress`` last had a new sign of life, by the operator's clock."""
    namespace_budget: NamespaceBudget | None = None
    """Asked for only where the job trains on GPUs; None: there is none."""
    results: tuple[PublishedResult, ...] = ()
    """Looked for only when the job may reuse one, and has to decide it."""
    ratings: Ratings | None = None
    """Of people, asked for only where they count; None: there are none."""
    dropped: frozenset[FieldPath] = frozenset()
    """Fields of a status that the API server does not store."""
    listening_since: datetime = ALWAYS
    """Since when this operator would have heard from a gang."""

    @property
    def key(self) -> Key:
        return self.job.key

    @property
    def children(self) -> tuple[tuple[ChildJob, ...], tuple[ChildPod, ...]]:
        return self.observed.jobs, self.observed.pods

    @property
    def spec(self) -> FineTuneJobSpec:
        return self.known_plan.spec

    @property
    def known_plan(self) -> TrainingPlan:
        """The plan; only for rules that stand after ``spec_invalid``."""
        if self.plan is None:
            raise AssertionError("a rule before spec_invalid asked for the plan")
        return self.plan

    @cached_property
    def stage(self) -> Stage:
        name = stage_of(self.status)
        attempt, uid = stage_record(self.status, name)
        job = None
        if attempt is not None:
            job_name = stage_job_name(self.key, name, attempt)
            job = self.observed.job(job_name, self.job.uid)
        pods = tuple(
            pod
            for pod in self.observed.pods
            if job is not None and pod.job_uid == job.uid and not pod.deleting
        )
        return Stage(name, attempt, uid, job, pods)

    @cached_property
    def own_jobs(self) -> tuple[ChildJob, ...]:
        return tuple(job for job in self.observed.jobs if job.owner_uid == self.job.uid)

    @cached_property
    def live_jobs(self) -> tuple[ChildJob, ...]:
        """Own Jobs that are neither finished nor on their way out."""
        return tuple(
            job
            for job in self.own_jobs
            if not (job.finished or job.deleting or self.is_played_out(job))
        )

    def is_played_out(self, job: ChildJob) -> bool:
        """All pods of a gang have ended, one of them badly. Its Job makes no others (backoffLimit
        0); its controller says that it Failed, but only a second later."""
        if job.stage != StageName.TRAIN or job.suspended or job.deleting:
            return False
        pods = [pod for pod in self.observed.pods if pod.job_uid == job.uid and not pod.deleting]
        return (
            len(pods) >= job.parallelism
            and all(pod.finished for pod in pods)
            and any(pod.phase == "Failed" for pod in pods)
        )

    @cached_property
    def live_pods(self) -> tuple[ChildPod, ...]:
        """Own pods that still hold something, terminating ones included, lost ones not."""
        return tuple(
            pod
            for pod in self.observed.pods
            if pod.owner_uid == self.job.uid and not pod.finished and not self.is_lost(pod)
        )

    @cached_property
    def lost_pods(self) -> tuple[ChildPod, ...]:
        """Own pods that were given up: nobody can say whether they still run."""
        return tuple(
            pod for pod in self.observed.pods if pod.owner_uid == self.job.uid and self.is_lost(pod)
        )

    def is_lost(self, pod: ChildPod) -> bool:
        """Nobody waits for this pod any longer."""
        lost = is_lost(pod, self.now, self.patience, self.listening_since)
        return lost and not self.is_excused(pod)

    def is_excused(self, pod: ChildPod) -> bool:
        """Its node may not answer, but the pod itself does its work, and is wanted."""
        return self.trains and self.of_present_attempt(pod) and not pod.deleting

    def of_present_attempt(self, pod: ChildPod) -> bool:
        job = self.stage.job
        return job is not None and pod.job_uid == job.uid

    @cached_property
    def patience(self) -> timedelta:
        """How long a pod may be out of reach."""
        recovery = self.plan.spec.recovery if self.plan else Recovery()
        return timedelta(seconds=recovery.node_lost_after_seconds)

    @cached_property
    def trains(self) -> bool:
        """The present gang gave a sign of life of late. No rank is missing then: each step needs
        all of them."""
        told, stage = self.progress, self.stage
        if (
            told is None
            or self.heard is None
            or stage.name is not StageName.TRAIN
            or told.attempt != stage.attempt
        ):
            return False
        limit = max(self.patience.total_seconds(), LEAST_SILENCE_SECONDS)
        return self.seconds_since(self.heard) < limit

    def condition(self, name: str) -> tuple[str, str]:
        """Status and reason of a stored condition; empty where it is not there."""
        for condition in self.status.conditions:
            if condition.type == name:
                return condition.status, condition.reason
        return "", ""

    def seconds_since(self, moment: datetime) -> float:
        return (self.now - moment).total_seconds()


class State(Enum):
    """How Reconciling, Stalled, Succeeded and Failed stand (a row of the kstatus table)."""

    MOVING = ("True", "False", "Unknown", "False")
    RUNNING = ("False", "False", "Unknown", "False")
    SUSPENDED = ("False", "False", "Unknown", "False", "Suspended")
    STUCK = ("False", "True", "Unknown", "False")
    """Waits for a person; heals when the cause goes."""
    SUCCEEDED = ("False", "False", "True", "False")
    FAILED = ("False", "True", "False", "True")

    @property
    def terminal(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED)


class Verb(Enum):
    """What can be done to a child."""

    ENSURE = "ensure"
    """Create, or bring back to what the plan says."""
    CREATE = "create"
    """Create once."""
    DELETE = "delete"


@dataclass(frozen=True)
class Action:
    """One change in the cluster."""

    verb: Verb
    kind: str
    name: str
    manifest: Mapping[str, Any] | None = None
    uid: str | None = None
    """Delete: only this object, not a successor of the same name. None: read its owner first."""
    fresh: bool = False
    """Ensure: most likely it is not there yet, so do not look before creating."""


@dataclass(frozen=True)
class Verdict:
    """What a rule says: what the status becomes, what is to do, when to look again."""

    phase: Phase
    state: State
    reason: str
    message: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the status."""
    conditions: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Conditions beside the four: type → status, reason, message."""
    pending_reason: str | None = None
    actions: tuple[Action, ...] = ()
    """Carried out only if the stored status already says what this verdict says."""
    aside: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not worth a write of their own: they go along with the next one."""
    quiet: bool = False
    """No Event: another one follows soon and says more."""
    again_after: float | None = None
    final: bool = False
    """Nobody looks back behind this verdict, so it counts only on what the API server says now."""


def stage_of(status: FineTuneJobStatus) -> StageName:
    """The stage that is not over yet; export for a job that is through, or need not train."""
    if status.prepared is None:
        return StageName.PREPARE
    if in_use(status.reused):
        return StageName.EXPORT
    if status.trained is None:
        return StageName.TRAIN
    scores = status.score_attempt is not None and status.scored is None
    return StageName.SCORE if scores else StageName.EXPORT


ATTEMPT_FIELDS = {
    StageName.PREPARE: ("prepare_attempt", "prepare_job_uid"),
    StageName.TRAIN: ("attempt", "job_uid"),
    StageName.SCORE: ("score_attempt", "score_job_uid"),
    StageName.EXPORT: ("export_attempt", "export_job_uid"),
}
"""Where status keeps an attempt's number and its Job's UID."""

WAITING_PHASES = {
    StageName.PREPARE: Phase.PENDING,
    StageName.TRAIN: Phase.STARTING,
    StageName.SCORE: Phase.EXPORTING,
    StageName.EXPORT: Phase.EXPORTING,
}
RUNNING_PHASES = {
    StageName.PREPARE: Phase.PREPARING,
    StageName.TRAIN: Phase.TRAINING,
    StageName.SCORE: Phase.EXPORTING,
    StageName.EXPORT: Phase.EXPORTING,
}


def stage_record(status: FineTuneJobStatus, stage: StageName) -> tuple[int | None, str | None]:
    """Attempt number and Job UID of a stage as status has them."""
    attempt, uid = ATTEMPT_FIELDS[stage]
    return getattr(status, attempt), getattr(status, uid)


def new_attempt(stage: StageName, number: int) -> dict[str, Any]:
    """The status fields that write an attempt ahead."""
    attempt, uid = ATTEMPT_FIELDS[stage]
    return {attempt: number, uid: None, "next_attempt_time": None}


def record_job(facts: Facts) -> dict[str, Any]:
    """The status field that remembers which Job bears the present attempt."""
    stage = facts.stage
    return {ATTEMPT_FIELDS[stage.name][1]: stage.job.uid} if stage.job else {}


def backoff(first: float, times: int, at_most: float) -> timedelta:
    """Doubling pause before try number ``times`` (from 0)."""
    return timedelta(seconds=min(at_most, first * 2 ** min(times, 20)))
