"""Where the time of a job goes: ``status.goodput``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, computed_field

from .schema import StatusModel, Timestamp

Seconds = Annotated[int, Field(ge=0)]


class Cause(StrEnum):
    """What time is spent on; each second of a job belongs to one cause."""

    QUEUE = "queue"
    PREPARE = "prepare"
    INIT = "init"
    PRODUCTIVE = "productive"
    RECOMPUTE = "recompute"
    CHECKPOINT = "checkpoint"
    EVALUATION = "evaluation"
    EXPORT = "export"
    RESTART = "restart"
    SUSPENDED = "suspended"


STEPS = (Cause.PRODUCTIVE, Cause.RECOMPUTE)
AT_WORK = (Cause.INIT, *STEPS, Cause.CHECKPOINT, Cause.EVALUATION)
"""What a whole gang does."""


class TimeSpent(StatusModel):
    """Seconds by cause."""

    queue: Seconds = 0
    """Not all pods of the stage have a node: quota, a queue, no room, a pause after a gang that was
    not ready in time, and the moments between two stages."""
    prepare: Seconds = 0
    """The prepare pod has a node, until it ends."""
    init: Seconds = 0
    """All training pods have a node, until the first step: image, container, imports, rendezvous,
    weights, checkpoint."""
    productive: Seconds = 0
    """Optimizer steps that ended and were done for the first time."""
    recompute: Seconds = 0
    """Optimizer steps that had been done before and were lost."""
    checkpoint: Seconds = 0
    """Saving training state and the trained weights."""
    evaluation: Seconds = 0
    """Scores on the held-out rows."""
    export: Seconds = 0
    """The export pod has a node, until it ends."""
    restart: Seconds = 0
    """From a failure until the next attempt is made, or until the job ends; the step that it cut
    off included."""
    suspended: Seconds = 0
    """Standing still: by `spec.suspend`, for want of GPU-hours, or until people have rated the
    answers."""

    @classmethod
    def of(cls, seconds: dict[Cause, int]) -> TimeSpent:
        return cls(**{cause.value: count for cause, count in seconds.items() if count})

    def by_cause(self) -> dict[Cause, int]:
        return {cause: getattr(self, cause.value) for cause in Cause}

    @property
    def total(self) -> int:
        return sum(self.by_cause().values())


class Goodput(StatusModel):
    """An account of the job's time: `seconds` add up to the time from startTime to `until`.

    It is brought up to date with each write of the status, and makes none.
    """

    until: Timestamp
    """Up to here time is accounted for; after the end of the job, its completionTime."""
    current: Cause | None = None
    """What the time since then is spent on, as far as is known. Absent after the end."""
    seconds: TimeSpent = TimeSpent()
    """Seconds by cause, since startTime."""
    attempt: TimeSpent | None = None
    """The part of them since all training pods of the present attempt had a node. Absent before."""
    gpu_seconds: Seconds = 0
    """Seconds in which training pods held GPUs, times their GPUs: from a pod's node to its end."""

    @computed_field
    def percent(self) -> Annotated[int, Field(ge=0, le=100)] | None:
        """Productive share of the time that the job was not suspended, rounded down."""
        awake = self.seconds.total - self.seconds.suspended
        return 100 * self.seconds.productive // awake if awake > 0 else None
