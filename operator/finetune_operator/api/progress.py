"""How far training is, and what it has saved: ``status.progress``, ``status.checkpoints``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, computed_field

from .schema import Decimal, StatusModel, Timestamp
from .status_types import Counter, StageName


def duration(seconds: int) -> str:
    """Seconds as kubectl shows ages, in the two largest units: 45s, 13m32s, 2h5m, 3d4h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


class Progress(StatusModel):
    """How far training is; prepare and export say nothing of that."""

    stage: StageName | None = None
    """The stage that this is about: train."""
    phase: str | None = None
    """What the ranks do: init, load, eval, train, checkpoint, save or done."""
    step: Counter | None = None
    """Optimizer steps done."""
    steps: Counter | None = None
    """Optimizer steps of the whole training."""
    epoch: Decimal | None = None
    """Passes over the training rows so far."""
    eta_seconds: Counter | None = None
    """Seconds of training that remain, by the speed of late."""
    tokens_per_second: Decimal | None = None
    """Tokens without padding, all ranks together."""
    skipped: Annotated[dict[str, Counter], Field(max_length=16)] | None = None
    """Steps that changed no weight, by reason: nonfinite, lossSpike, passedOver (after a
    roll-back), lossScale (FP16 searches it), noTokens (nothing to learn in them)."""
    last_bad_step: Counter | None = None
    """The last step that changed no weight because of its loss or gradients, numbered from 1."""
    loss_spikes: Counter | None = None
    """Loss spikes so far, whatever followed from them."""
    peak_memory_bytes: Counter | None = None
    """What rank 0 held of its GPU at most; `resolved.memory.predictedBytes` is the prediction."""
    updated_at: Timestamp | None = None
    """When rank 0 said so."""

    @computed_field
    def percent(self) -> Annotated[int, Field(ge=0, le=100)] | None:
        """step / steps in percent, rounded down."""
        if self.step is None or not self.steps:
            return None
        return min(100, 100 * self.step // self.steps)

    @computed_field
    def summary(self) -> str | None:
        """percent, step and steps in one word, for display: 44% (140/312)."""
        if self.percent is None:
            return None
        return f"{self.percent}% ({self.step}/{self.steps})"

    @computed_field
    def eta(self) -> str | None:
        """etaSeconds for display: 13m32s."""
        return None if self.eta_seconds is None else duration(self.eta_seconds)


class LatestCheckpoint(StatusModel):
    """The newest checkpoint that an attempt could go on from."""

    step: Counter | None = None
    """Optimizer step after which it was saved."""
    verified: bool | None = None
    """Always true: only a checkpoint that is durable and listed with sizes and hashes is named.
    They are compared on loading; where one differs, an older checkpoint takes this place."""
    bytes: Counter | None = None
    """Size on the volume."""


class BestCheckpoint(StatusModel):
    """The checkpoint with the lowest loss on the held-out rows."""

    step: Counter | None = None
    """Optimizer step after which it was saved."""
    eval_loss: Decimal | None = None
    """Its loss on the held-out rows."""


class Checkpoints(StatusModel):
    """Saved training state."""

    latest: LatestCheckpoint | None = None
    """The newest."""
    best: BestCheckpoint | None = None
    """The one with the lowest evalLoss."""
