"""``FineTuneJob.status``: what is known, for people and for machines.

The counters of the stages are written ahead: number n stands here before the Job that bears it is
created, and a Job is created only by a pass that has read n back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .artifact import Artifact
from .conditions import Condition
from .goodput import Goodput
from .human import HumanEvaluation
from .lineage import Lineage, Lock, Reused
from .prepared import DataStatus, ModelStatus
from .progress import Checkpoints, Progress
from .resolved import Resolved
from .restarts import Failure, LostNode, PastFailure, Restarts, ResumedFrom
from .schema import StatusModel, Timestamp, list_map
from .scores import Metrics
from .scoring import MAX_SCORERS, ScorerStatus
from .status_types import Counter, Message


class Phase(StrEnum):
    """Where the job stands, for display; machines read the conditions."""

    PENDING = "Pending"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    STARTING = "Starting"
    TRAINING = "Training"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Logs(StatusModel):
    """Where logs and step metrics lie, on the claim of `spec.storage`."""

    claim: str | None = None
    """Name of the claim."""
    path: str | None = None
    """Folder on the claim with one log for each rank of the present attempt."""
    metrics_path: str | None = None
    """File on the claim with one JSON object for each step and evaluation."""
    answers_path: str | None = None
    """Page on the claim with prompts, references and the answers of the untouched and the tuned
    model, once training is over; the same as JSON lines beside it (`answers.jsonl`). It is
    published with the model, too."""


MAX_EVENTS = 8
"""Events of a job's whole life."""


class FineTuneJobStatus(StatusModel):
    """What is known about the job. Written by the operator alone."""

    observed_generation: int = -1
    """Generation of the spec that this status speaks of; -1: the operator has not seen it."""
    phase: Phase | None = None
    """Where the job stands, for people; scripts use the conditions."""
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_map("type"))
    ] = ()
    """The state, for machines: Reconciling, Stalled, Succeeded, Failed and more."""
    prepare_attempt: Counter | None = None
    """Number of the present prepare Job, <name>-p<n>. Absent: not begun."""
    attempt: Counter | None = None
    """Number of the present training gang, <name>-a<n>. Absent: not begun."""
    score_attempt: Counter | None = None
    """Number of the present Job of scorers, <name>-s<n>. Absent: there is none."""
    export_attempt: Counter | None = None
    """Number of the present export Job, <name>-x<n>. Absent: not begun."""
    prepare_job_uid: Annotated[str | None, Field(alias="prepareJobUID")] = None
    """UID of that prepare Job, once it was created."""
    job_uid: Annotated[str | None, Field(alias="jobUID")] = None
    """UID of that training Job, once it was created."""
    score_job_uid: Annotated[str | None, Field(alias="scoreJobUID")] = None
    """UID of that Job of scorers, once it was created."""
    export_job_uid: Annotated[str | None, Field(alias="exportJobUID")] = None
    """UID of that export Job, once it was created."""
    prepared: Timestamp | None = None
    """When prepare succeeded."""
    trained: Timestamp | None = None
    """When training succeeded."""
    scored: Timestamp | None = None
    """When all scorers had ended, well or not."""
    exported: Timestamp | None = None
    """When export succeeded."""
    start_timeouts: Counter | None = None
    """Gangs in a row that were given back because they were not ready in time."""
    next_attempt_time: Timestamp | None = None
    """Not before this time is the next attempt created."""
    restarts: Restarts | None = None
    """Restarts after failures. Absent: none."""
    past_failures: Annotated[tuple[PastFailure, ...], Field(max_length=10)] | None = None
    """Failures after which the job was started again: the newest ten, the newest last."""
    resumed_from: ResumedFrom | None = None
    """Where the present attempt of the training began, once it said so. Absent for attempt 0."""
    lost_nodes: (
        Annotated[tuple[LostNode, ...], Field(max_length=64, json_schema_extra=list_map("name"))]
        | None
    ) = None
    """Nodes that do not answer, with pods of this job that were given up. A node leaves the list
    when its pods are gone: once it answers again, or was declared dead."""
    resolved: Resolved | None = None
    """What absent fields became, and why."""
    model: ModelStatus | None = None
    """The model that was prepared."""
    lineage: Lineage | None = None
    """Where the model comes from, for `job://` models."""
    lock: Lock | None = None
    """What decides the result; known after prepare, published beside the model as `lock.json`."""
    reused: Reused | None = None
    """A result of another job with the same lock, see `spec.output.reuse`."""
    data: DataStatus | None = None
    """The data that was prepared."""
    events: Annotated[tuple[str, ...], Field(max_length=MAX_EVENTS)] | None = None
    """Reasons of the Events posted about the job, the newest last: at most eight in its life, so
    that it never floods the namespace. The last one is kept for its end."""
    progress: Progress | None = None
    """How far training is."""
    metrics: Metrics | None = None
    """Newest numbers of the training."""
    scorers: (
        Annotated[
            tuple[ScorerStatus, ...],
            Field(max_length=MAX_SCORERS, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """What the scorers of `spec.evaluation.generation.scorers` said."""
    human_evaluation: HumanEvaluation | None = None
    """What people think of the answers."""
    checkpoints: Checkpoints | None = None
    """Saved training state."""
    pending_reason: Message | None = None
    """One sentence: what the job waits for and what to do. Absent while nothing is waited for."""
    failure: Failure | None = None
    """The failure that counts; after a restart it goes when pods run again, and is found in
    pastFailures."""
    artifact: Artifact | None = None
    """The result."""
    logs: Logs | None = None
    """Where logs lie."""
    start_time: Timestamp | None = None
    """When the operator took the job up."""
    completion_time: Timestamp | None = None
    """When it ended, well or not, with no pod left but those of `lostNodes`."""
    suspend_time: Timestamp | None = None
    """Since when it is suspended, by `spec.suspend` or for want of GPU-hours. Absent: it is not."""
    suspended_seconds: Counter | None = None
    """Seconds that it was suspended, before suspendTime."""
    goodput: Goodput | None = None
    """What the time of the job is spent on."""
    children_removed_time: Timestamp | None = None
    """When the children, but for the claim of `storage.size`, were removed by
    ttlSecondsAfterFinished."""
