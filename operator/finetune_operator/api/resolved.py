"""What absent fields became, and how they changed since: ``status.resolved``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .schema import Decimal, StatusModel, Timestamp
from .status_types import Counter, Message


class Adaptation(StatusModel):
    """A step that made training smaller after it had run out of memory."""

    attempt: Counter | None = None
    """Attempt that ran out of memory."""
    failure_class: Annotated[str | None, Field(alias="class")] = None
    """CudaOom: of a GPU; HostOom: of the container."""
    change: Annotated[str, Field(max_length=256)] | None = None
    """What is different since then; the global batch stays as it was."""


class PassedOver(StatusModel):
    """Steps whose rows are left out since training went back behind them."""

    attempt: Counter | None = None
    """Attempt that the last of these steps ended."""
    failure_class: Annotated[str | None, Field(alias="class")] = None
    """NonFinite or LossSpike."""
    first_step: Counter | None = None
    """The first of them; steps are numbered from 1."""
    last_step: Counter | None = None
    """The bad one."""


class MemoryStatus(StatusModel):
    """What a rank will need at its worst moment, predicted: of its GPU, or of its pod's share."""

    predicted_bytes: Counter | None = None
    """All parts together."""
    available_bytes: Counter | None = None
    """`spec.workers.memoryPerGpu`; on CPU the pod's memory limit divided by its ranks. Absent: not
    known."""
    parts: Annotated[dict[str, Counter], Field(max_length=16)] | None = None
    """Bytes of parameters, gradients, optimizer, activations, logits, buffers, checkpointCopy and
    runtime at that moment."""
    host_bytes: Counter | None = None
    """Host memory that a rank with a GPU takes besides, at least: interpreter, what is offloaded,
    and the copy of the state for asynchronous checkpoints."""
    host_available_bytes: Counter | None = None
    """The pod's memory limit divided by its ranks, with GPUs. Absent: it has none."""
    fits_with: Annotated[str, Field(max_length=256)] | None = None
    """The nearest configuration that fits, where this one does not."""


class PlannedFit(StatusModel):
    """What was left open and chosen from the predicted memory, when prepare was over. Later
    attempts keep it; adaptations go on from it."""

    micro_batch_size: Counter | None = None
    """Sequences per rank and forward pass."""
    zero_stage: Counter | None = None
    """ZeRO stage."""
    activation_checkpointing: Literal["Enabled", "Disabled"] | None = None
    """Whether activations are computed again in the backward pass."""
    reasons: Annotated[dict[str, Message], Field(max_length=8)] | None = None
    """Why it is not what it would be with more memory, by field name."""


class Resize(StatusModel):
    """A change of the number of workers."""

    attempt: Counter | None = None
    """Attempt that ended; later ones have the new size."""
    workers_before: Counter | None = None
    """Training pods of that attempt."""
    workers: Counter | None = None
    """Training pods since then."""
    wanted: Counter | None = None
    """`spec.workers.count` at that time. Another one makes this void."""
    step: Counter | None = None
    """Last optimizer step known by then."""
    reason: Message | None = None
    """Why."""
    at: Timestamp | None = None
    """When."""


class Resolved(StatusModel):
    """What absent fields became."""

    workers: Counter | None = None
    """Training pods of the gang; after a resize not as many as `spec.workers.count`."""
    world_size: Counter | None = None
    """Ranks of the gang."""
    micro_batch_size: Counter | None = None
    """Sequences per rank and forward pass."""
    accumulation: Counter | None = None
    """Forward passes per optimizer step."""
    global_batch_size: Counter | None = None
    """Sequences per optimizer step: microBatchSize × accumulation × worldSize."""
    zero_stage: Counter | None = None
    """ZeRO stage."""
    offload_optimizer: Literal["None", "CPU"] | None = None
    """Whether optimizer state lies in host memory. Absent: the job has no GPUs."""
    offload_parameters: Literal["None", "CPU"] | None = None
    """Whether the weights that compute do. Absent: the job has no GPUs."""
    activation_checkpointing: Literal["Enabled", "Disabled"] | None = None
    """Whether activations are computed again in the backward pass."""
    precision: str | None = None
    """Number format of forward and backward; Auto: the trainer asks its GPU."""
    learning_rate: Decimal | None = None
    """Peak learning rate."""
    checkpoint_seconds: Counter | None = None
    """Seconds between checkpoints, at least. Absent: `spec.checkpoint.everySteps` says when."""
    steps: Counter | None = None
    """Optimizer steps of the whole training; known after prepare."""
    memory: MemoryStatus | None = None
    """What a rank is predicted to need; known after prepare."""
    planned: PlannedFit | None = None
    """What was chosen so that a rank fits into its memory. Absent: that memory is not known, or
    nothing was left open."""
    image: str | None = None
    """Trainer image of this job; kept from its first pod to its last."""
    reasons: Annotated[dict[str, Message], Field(max_length=32)] | None = None
    """Why, by field name."""
    adaptations: Annotated[tuple[Adaptation, ...], Field(max_length=32)] | None = None
    """What was made smaller after training ran out of memory, in order."""
    passed_over: Annotated[tuple[PassedOver, ...], Field(max_length=32)] | None = None
    """Steps that were passed over after roll-backs, in order; they count as done."""
    resizes: Annotated[tuple[Resize, ...], Field(max_length=10)] | None = None
    """Changes of the number of workers: the newest ten, the newest last."""
