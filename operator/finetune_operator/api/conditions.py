"""Condition types and reasons: the words of ``status.conditions``.

The same reason stands in a condition, an Event and a metric label. ``Reconciling``, ``Stalled``
and ``observedGeneration`` follow kstatus, so Flux and Helm can wait for a job; there is no
``Ready`` condition, because it would leave a failed job in progress for ever.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .failures import FAILURE_CLASSES
from .schema import StatusModel, Timestamp

ConditionValue = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """Every condition that a job can have; all are published from the first status on."""

    RECONCILING = "Reconciling"
    """The operator brings pods up, or takes them down. Never together with Stalled."""
    STALLED = "Stalled"
    """Goes no further by itself: failed for good, or waiting for a person to mend the cause."""
    SUCCEEDED = "Succeeded"
    """Unknown while active, then True or False: the summary."""
    FAILED = "Failed"
    """The opposite of Succeeded at the end; `kubectl wait` watches one condition only."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is honoured: no pod is left."""
    SPEC_VALID = "SpecValid"
    """The spec can be carried out, as far as it can be judged without its data."""
    DATASET_VALID = "DatasetValid"
    """Model and data were fetched, checked and tokenized. False: they cannot be used. Unknown:
    nobody has looked at them to the end."""
    PREFLIGHT_PASSED = "PreflightPassed"
    """A rank is predicted to fit into its memory. Unknown: how much it has is not known."""
    GANG_READY = "GangReady"
    """All training pods are ready."""
    OVERFITTING = "Overfitting"
    """The model learns its rows by heart. False: it does not, and the reason says how it does."""
    SCORED = "Scored"
    """All scorers of `spec.evaluation.generation.scorers` have said their numbers."""
    GATE_PASSED = "GatePassed"
    """The model reached what `spec.gate` asks for."""
    PUBLISHED = "Published"
    """The result lies at its place, loaded again and compared."""


class Reason(StrEnum):
    """Reasons besides the failure classes."""

    ACCEPTED = "Accepted"
    PENDING = "Pending"
    """Not judged yet."""
    PREPARING = "Preparing"
    PREPARED = "Prepared"
    MEMORY_FITS = "MemoryFits"
    MEMORY_SHORT = "MemoryShort"
    """A rank is predicted to need more memory than it has."""
    MEMORY_UNKNOWN = "MemoryUnknown"
    """The need is predicted; how much there is, nobody said."""
    TRAINED = "Trained"
    QUEUED = "Queued"
    STARTING = "Starting"
    WAITING_FOR_PODS = "WaitingForPods"
    TRAINING = "Training"
    STEPS_SKIPPED = "StepsSkipped"
    """Training goes on, and left steps out for their numbers."""
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    """Training goes on from an older checkpoint: newer ones are torn, or not what was written."""
    OVERFITTING = "Overfitting"
    """The held-out loss rises, or has left that on training rows far behind."""
    DIVERGED = "Diverged"
    """Losses have risen above those of the untouched model, on held-out and on training rows."""
    WORSE_THAN_BASE = "WorseThanBase"
    """The held-out loss is not below that of the untouched model."""
    NO_IMPROVEMENT = "NoImprovement"
    """The held-out loss has stopped falling."""
    UNDERFITTING = "Underfitting"
    """The held-out loss was still falling at the end."""
    WELL_FITTED = "WellFitted"
    RESTARTING = "Restarting"
    RESIZING = "Resizing"
    """The gang saves and ends, to go on with more workers."""
    RESIZED = "Resized"
    """The next attempt has another number of workers."""
    EXPORTING = "Exporting"
    SCORING = "Scoring"
    """The user's scorers run."""
    SCORED = "Scored"
    SCORER_FAILED = "ScorerFailed"
    """A scorer said no numbers; the message says which and why."""
    NO_SCORERS = "NoScorers"
    """`spec.evaluation.generation.scorers` names none."""
    GATE_PASSED = "GatePassed"
    WAITING_FOR_RATINGS = "WaitingForRatings"
    """The model is trained; people have to rate it before it is published."""
    RATINGS_INVALID = "RatingsInvalid"
    """Ratings came back that cannot count; the message says which and why."""
    NO_GATE = "NoGate"
    """`spec.gate` asks for nothing."""
    PUBLISHED = "Published"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    DRAINING = "Draining"
    """Ended in effect; pods are still terminating."""
    SUCCEEDED = "Succeeded"
    NOT_FAILED = "NotFailed"
    ACTIVE = "Active"

    QUOTA_EXCEEDED = "QuotaExceeded"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    VOLUME_PENDING = "VolumePending"
    CONTAINER_CONFIG = "ContainerConfig"
    START_TIMEOUT = "StartTimeout"
    NAME_CONFLICT = "NameConflict"
    """A child's name is taken by an object that is not this job's."""
    CREATION_REFUSED = "CreationRefused"
    """The API server refuses a child, or a change of one, for another reason than quota; the
    message has its words."""
    FORBIDDEN = "Forbidden"
    """The operator's role lacks a right; the message says which."""
    CRD_OUTDATED = "CRDOutdated"
    """The CRD in the cluster does not know fields of the status that the operator writes."""
    PREVIOUS_JOB_TERMINATING = "PreviousJobTerminating"
    """A job of the same name was deleted and its pods are not gone yet."""

    INVALID_SPEC = "InvalidSpec"
    BATCH_DOES_NOT_FIT = "BatchDoesNotFit"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    CLAIM_NOT_SHARED = "ClaimNotShared"
    """More than one worker, and the claim is not ReadWriteMany."""
    SOURCE_NOT_FOUND = "SourceNotFound"
    """A ConfigMap, claim or job:// source that the spec names does not exist."""
    SOURCE_NOT_READY = "SourceNotReady"
    """The job that a job:// source names has not succeeded."""
    JOB_VANISHED = "JobVanished"
    """A child Job was deleted by someone else."""
    EVICTED = "Evicted"
    POD_LOST = "PodLost"
    """A pod is gone and left no word: deleted by force, or its node with it."""
    NODE_UNREACHABLE = "NodeUnreachable"
    """A node does not answer; its pods may still run."""
    NODE_LOST = "NodeLost"
    """It has not answered for so long that its pods are given up."""
    REPEATED_FAILURE = "RepeatedFailure"
    """The same class at the same place as before: another attempt would fail there too."""
    RESTARTS_EXHAUSTED = "RestartsExhausted"
    """The budget that would pay for another attempt is spent."""
    HOST_OOM = "HostOom"
    """The container went over its memory limit."""
    EPHEMERAL_STORAGE_EXCEEDED = "EphemeralStorageExceeded"
    """The pod went over its own limit for local disk, and was evicted for that."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BUDGET_EXCEEDED = "BudgetExceeded"
    """GPU-hours are used up: training waits until there are more."""
    BUDGET_INVALID = "BudgetInvalid"
    """The budget of the namespace is no number."""
    UNKNOWN_FAILURE = "UnknownFailure"
    """The container died without a word, with a code that is not in the table."""


REASONS = frozenset({*Reason, *(failure.name for failure in FAILURE_CLASSES)})


class Condition(StatusModel):
    """One aspect of the state, as in every Kubernetes object."""

    type: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the aspect, unique in the list."""
    status: ConditionValue
    """True, False or Unknown."""
    observed_generation: Annotated[int | None, Field(ge=0)] = None
    """Generation of the spec that was judged."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Why, as one word for machines."""
    message: Annotated[str, Field(max_length=2048)]
    """Why, as a sentence for people."""
