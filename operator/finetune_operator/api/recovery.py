"""How often and how soon the job is tried again: ``spec.recovery``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .elastic import Elastic
from .schema import DecimalRange, Rule, SpecModel

PauseSeconds = Annotated[int, Field(ge=1, le=86_400)]


class Backoff(SpecModel):
    """Pause before a restart. It doubles with every failure in a row and starts anew once
    training got further than ever before. What comes from around the program, such as an eviction
    or a lost node, is followed by a restart at once the first time."""

    initial: PauseSeconds = 5
    """Seconds before the first restart that waits: after a failure of the program, or the second
    loss in a row around it."""
    max: PauseSeconds = 300
    """Longest pause, in seconds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # The API server tries the rule on the default too, before it fills that in.
            cel="!has(self.initial) || !has(self.max) || self.initial <= self.max",
            message="initial must not be greater than max",
            field_path=".initial",
            check=lambda backoff: backoff.initial <= backoff.max,
        ),
    )


class OnOutOfMemory(StrEnum):
    """What follows when training runs out of memory."""

    ADAPT = "Adapt"
    FAIL = "Fail"


class OnNonFinite(StrEnum):
    """What follows when a loss or gradient is infinite or not a number."""

    SKIP = "Skip"
    ROLL_BACK = "RollBack"
    STOP = "Stop"


class OnLossSpike(StrEnum):
    """What follows when the loss of a step lies far above those before it."""

    IGNORE = "Ignore"
    SKIP = "Skip"
    ROLL_BACK = "RollBack"
    STOP = "Stop"


class LossSpike(SpecModel):
    """When a loss is a spike: above the median of the last losses by `factor` times their spread,
    and above the highest of them by half of that. Spread: 1.4826 × median absolute deviation, at
    least 0.05 nats per token."""

    factor: Annotated[str, DecimalRange(2, 1000, example="8")] = "8"
    """Spreads between the median and the limit, a decimal string."""
    window_steps: Annotated[int, Field(ge=8, le=1024)] = 64
    """Steps whose losses are compared. Nothing is a spike before half of them are done."""


class Recovery(SpecModel):
    """What happens after a failure: all pods of the stage end, then it starts again; training goes
    on from the newest verified checkpoint. A failure that would only repeat ends the job at
    once."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts after failures of the program, such as an exception, a crash or too little memory.
    0: the first one ends the job."""
    max_infrastructure_restarts: Annotated[int, Field(ge=0, le=1000)] = 20
    """Restarts after failures around the program, such as an eviction, a preemption, a deleted
    pod or a lost connection. 0: the first one ends the job."""
    backoff_seconds: Backoff = Backoff()
    """Pause before a restart."""
    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.ADAPT
    """Adapt: the next attempt uses less memory for the same global batch: a smaller micro-batch
    with more accumulation, then activation checkpointing, then a higher ZeRO stage, then offload to
    the host's memory; each step stands in `status.resolved.adaptations`. Fail: like any failure of
    the program."""
    on_non_finite: OnNonFinite = OnNonFinite.SKIP
    """An infinite loss or gradient, or NaN, never changes a weight. Skip: training goes on with the
    next step. RollBack: it goes on from a checkpoint before that step and passes over its rows and
    those of the steps just before it. Stop: the job fails. Overflow while FP16 searches its loss
    scale does not count."""
    on_loss_spike: OnLossSpike = OnLossSpike.IGNORE
    """Ignore: the step counts, and the spike is told. Skip: the step changes no weight. RollBack
    and Stop: as above."""
    loss_spike: LossSpike = LossSpike()
    """When a loss is a spike."""
    max_skipped_steps: Annotated[int, Field(ge=1, le=1000)] = 3
    """Steps in a row that may be skipped; one more is a failure of the program."""
    roll_back_steps: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Optimizer steps that a roll-back passes over: the bad one and those just before it. It goes
    back to the newest checkpoint before all of them, if there is one, else to the oldest one."""
    max_roll_backs: Annotated[int, Field(ge=1, le=32)] = 3
    """Roll-backs of a job; no other budget pays for them. One more bad step ends it."""
    hang_after_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """A rank that gives no sign of life for so many seconds while it trains or evaluates is
    ended, and with it the attempt; it always gets ten times as long as its steps take, and six
    times so many seconds to load, to save and for its first step."""
    node_lost_after_seconds: Annotated[int, Field(ge=10, le=86_400)] = 60
    """Pods are given up so many seconds after Kubernetes had the last word from their node, which
    it notices after 50 seconds by itself, or after they had to be gone: the attempt ends, and the
    next one starts without them. Their nodes stand in `status.lostNodes`. A gang that still trains
    is left alone until Kubernetes evicts the pod."""
    elastic: Elastic | None = None
    """Training goes on with fewer workers while there is no room for all of them. Absent: it waits
    for room."""
