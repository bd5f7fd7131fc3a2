"""Failures, and the attempts that follow them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, computed_field

from .schema import StatusModel, Timestamp
from .status_types import Counter, Message, StageName


class Failure(StatusModel):
    """The failure that counts: the first one, not what followed from it."""

    failure_class: Annotated[str | None, Field(alias="class")] = None
    """Class, as in reasons, events and metrics: CudaOom, BadData, …"""
    signature: Annotated[str | None, Field(max_length=128)] = None
    """Known failure that the output shows: NcclWatchdogTimeout, HubGated, … Absent: none was
    recognised."""
    stage: StageName | None = None
    """Stage that failed."""
    attempt: Counter | None = None
    """Its number."""
    rank: Counter | None = None
    """Rank that failed first."""
    pod: str | None = None
    """Pod of that rank."""
    node: str | None = None
    """Node of that pod."""
    exit_code: int | None = None
    """Exit code of its container."""
    step: Counter | None = None
    """Last optimizer step done."""
    message: Message | None = None
    """What is wrong and where: a field path, or file and line."""
    cause: Message | None = None
    """What the signature means, in one sentence."""
    hint: Message | None = None
    """What to do."""
    lines: (
        Annotated[
            tuple[Annotated[str, Field(max_length=1024)], ...],
            Field(max_length=20),
        ]
        | None
    ) = None
    """Last lines of its log that say something. (×8 ranks): so many ranks of the pod said it."""
    at: Timestamp | None = None
    """When."""


class PastFailure(StatusModel):
    """A failure after which the job was started again."""

    failure_class: Annotated[str | None, Field(alias="class")] = None
    """Class, as in `failure`."""
    stage: StageName | None = None
    """Stage that failed."""
    attempt: Counter | None = None
    """Number of the attempt that ended."""
    step: Counter | None = None
    """Last optimizer step known of it."""
    node: str | None = None
    """Node of the pod that failed first."""
    at: Timestamp | None = None
    """When."""
    budget: Literal["Program", "Infrastructure"] | None = None
    """Which budget paid for the restart; absent: none, it went on with less memory in use or
    rolled back."""
    steps_redone: Counter | None = None
    """Steps that were lost with the attempt: those after the checkpoint from which a later one
    went on. Absent until it did."""


class Restarts(StatusModel):
    """Restarts after failures, all stages together. Suspending costs none."""

    program: Counter | None = None
    """Paid by `spec.recovery.maxRestarts`."""
    infrastructure: Counter | None = None
    """Paid by `spec.recovery.maxInfrastructureRestarts`."""
    memory: Counter | None = None
    """With less memory in use (`resolved.adaptations`); paid by nobody, because they end by
    themselves."""
    roll_backs: Counter | None = None
    """Behind bad numbers (`resolved.passedOver`); limited by `spec.recovery.maxRollBacks`."""
    resizes: Counter | None = None
    """Changes of the number of workers (`resolved.resizes`); limited by
    `spec.recovery.elastic.maxResizes`, and not part of `total`."""
    steps_redone: Counter | None = None
    """Optimizer steps that were lost and trained again."""

    @computed_field
    def total(self) -> Counter:
        """program, infrastructure, memory and rollBacks together."""
        counts = (self.program, self.infrastructure, self.memory, self.roll_backs)
        return sum(count or 0 for count in counts)


class ResumedFrom(StatusModel):
    """Where the present attempt of the training began."""

    attempt: Counter | None = None
    """Attempt that saved the checkpoint. Absent: there was none, so it began anew."""
    step: Counter | None = None
    """Optimizer step of that checkpoint; 0 without one."""
    damaged: Annotated[tuple[Message, ...], Field(max_length=8)] | None = None
    """Newer checkpoints that were passed over, and what is wrong with each."""


class LostNode(StatusModel):
    """A node whose pods were given up."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the node."""
    since: Timestamp | None = None
    """Since when it has not answered, or when its pods had to be gone."""
    pods: Annotated[tuple[str, ...], Field(max_length=64)] | None = None
    """Pods of this job there that may still run, for all that Kubernetes knows. What they write is
    never read."""
