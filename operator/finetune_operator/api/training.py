"""How it is trained: method, hyperparameters, DeepSpeed, checkpoints."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .quantization import Quantization
from .schema import LIST_SET, DecimalRange, Rule, SpecModel, exactly_one

Steps = Annotated[int, Field(ge=1, le=10_000_000)]


class Switch(StrEnum):
    """Something is on or off."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class Lora(SpecModel):
    """Low-rank adapters beside frozen weights."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the two factors of each adapter."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale of the adapters; their effect is multiplied by alpha / rank, with rslora by
    alpha / √rank."""
    dropout: Annotated[str, DecimalRange(0, 0.9, example="0.05")] = "0.0"
    """Dropout on the input of the adapters, a decimal string."""
    rslora: Switch = Switch.DISABLED
    """Enabled: rank-stabilized scale (arXiv:2312.03732), which keeps large ranks learning."""
    dora: Switch = Switch.DISABLED
    """Enabled: weight-decomposed adapters (arXiv:2402.09353): size and direction of each output are
    trained apart. Takes more memory and time."""
    quantization: Quantization | None = None
    """NF4 keeps the frozen weights of all linear layers but the output head in 4 bits (QLoRA,
    arXiv:2305.14314), about 0.52 bytes each instead of 2, and computes with them in
    training.precision. Needs GPUs and at most ZeRO stage 2. Absent: not quantized."""
    target_modules: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
            Field(min_length=1, max_length=64, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Names of the modules that get adapters, such as `q_proj`. Absent: every linear layer but
    the output head."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.quantization) || self.dora != 'Enabled'",
            message="DoRA takes the norm of each whole weight in every pass, for which all of them "
            "would be unpacked each time: remove quantization, or set dora to Disabled",
            field_path=".quantization",
            check=lambda wish: wish.quantization is None or wish.dora is Switch.DISABLED,
        ),
    )


class Full(SpecModel):
    """All weights are trained."""


class Method(SpecModel):
    """Exactly one of `lora` and `full`."""

    lora: Lora | None = None
    """Train low-rank adapters; the model's own weights stay as they are."""
    full: Full | None = None
    """Train all weights: `full: {}`."""

    @property
    def quantized(self) -> bool:
        """The frozen weights are kept in few bits."""
        return self.lora is not None and self.lora.quantization is not None

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "lora", "full", message="set exactly one of lora and full, for example lora: {}"
        ),
    )


class ScheduleType(StrEnum):
    """Course of the learning rate after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Schedule(SpecModel):
    """Course of the learning rate over the steps."""

    type: ScheduleType = ScheduleType.COSINE
    """Course after the warm-up: Cosine, Linear or Constant."""
    warmup_fraction: Annotated[str, DecimalRange(0, 1, example="0.03")] = "0.03"
    """Share of all steps in which the rate rises from zero, a decimal string."""
    final_fraction: Annotated[str, DecimalRange(0, 1, example="0.1")] = "0.1"
    """Rate of the last step as a share of the peak, a decimal string. Constant ignores it."""


class OptimizerType(StrEnum):
    """Update rule."""

    ADAMW = "AdamW"
    SGD = "SGD"


class Optimizer(SpecModel):
    """Update rule and its numbers."""

    type: OptimizerType = OptimizerType.ADAMW
    """AdamW, or SGD without momentum."""
    weight_decay: Annotated[str, DecimalRange(0, 10, example="0.01")] = "0.0"
    """Decoupled weight decay, a decimal string."""
    beta1: Annotated[str, DecimalRange(0, 0.9999, example="0.9")] = "0.9"
    """AdamW: decay of the mean of gradients, a decimal string."""
    beta2: Annotated[str, DecimalRange(0, 0.999999, example="0.999")] = "0.999"
    """AdamW: decay of the mean of squared gradients, a decimal string."""
    epsilon: Annotated[str, DecimalRange(0, 1, low_open=True, example="1e-8")] = "1e-8"
    """AdamW: term against division by zero, a decimal string."""


class Precision(StrEnum):
    """Number format of forward and backward."""

    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class ActivationCheckpointing(StrEnum):
    """Whether activations are computed again in the backward pass."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    AUTO = "Auto"


class Training(SpecModel):
    """Hyperparameters."""

    epochs: Annotated[str, DecimalRange(0, 1000, low_open=True, example="3")] | None = None
    """Passes over the training rows, a decimal string such as "3" or "0.5"."""
    steps: Steps | None = None
    """Optimizer steps, instead of `epochs`."""
    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Sequences per optimizer step over all ranks; equals microBatchSize × accumulation × world
    size. Absent: the smallest size of at least 16 that fits."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Sequences per rank and forward pass. Absent: the largest that fits into memory, as far as
    that is known, with at most 8192 tokens on GPUs and 2048 on CPUs; see `status.resolved`."""
    learning_rate: Annotated[str, DecimalRange(0, 10, low_open=True, example="2e-4")] | None = None
    """Peak learning rate, a decimal string. Absent: 2e-4 with lora, 2e-5 with full."""
    schedule: Schedule = Schedule()
    """Course of the learning rate."""
    optimizer: Optimizer = Optimizer()
    """Update rule."""
    max_grad_norm: Annotated[str, DecimalRange(0, 1_000_000, example="1.0")] = "1.0"
    """Gradients are scaled down to this norm, a decimal string. "0" switches it off."""
    dropout: Annotated[str, DecimalRange(0, 0.9, example="0.1")] = "0.0"
    """Dropout inside the model while it trains, a decimal string."""
    neftune_noise_alpha: (
        Annotated[str, DecimalRange(0, 1000, low_open=True, example="5")] | None
    ) = None
    """Noise on the input embeddings while it trains (NEFTune, arXiv:2310.05914): uniform, at most
    alpha / √(tokens of the sample × hidden size), a decimal string; 5 is usual. Absent: none."""
    precision: Precision | None = None
    """BF16, FP16 (with loss scaling) or FP32. Absent: BF16 where the GPU has it, FP32 on CPU."""
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.DISABLED
    """Enabled computes activations again in the backward pass: less memory, about a third more
    time. Auto: only where no micro-batch would fit without it, see `status.resolved`."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of order, initialization and dropout."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("epochs", "steps", message="set exactly one of epochs and steps"),
    )


class OffloadDevice(StrEnum):
    """Where a part of the training state lies instead of the GPU's memory."""

    NONE = "None"
    CPU = "CPU"


class DeepSpeed(SpecModel):
    """DeepSpeed's partitioning of the training state over ranks, and its place."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """ZeRO stage: 0 nothing is partitioned (in BF16 and FP16 it runs as 1, which adds up gradients
    in FP32), 1 optimizer state, 2 also gradients, 3 also parameters. Absent: 0 for a single rank,
    else 2, or 3 where 2 does not fit into memory, as far as that is known (not with quantization);
    with offloadOptimizer at least 2, with offloadParameters 3; see `status.resolved`."""
    offload_optimizer: OffloadDevice = OffloadDevice.NONE
    """CPU keeps master weights and optimizer state in the pod's memory and makes the update there:
    far less GPU memory, and slower steps. At ZeRO 3 gradients are added up there, too. Needs GPUs
    and zeroStage 1 to 3."""
    offload_parameters: OffloadDevice = OffloadDevice.NONE
    """CPU keeps the weights that compute in the pod's memory and brings each layer's to the GPU
    when it is its turn; by itself, or beside the optimizer. Needs GPUs and zeroStage 3."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.offloadOptimizer) || self.offloadOptimizer == 'None'"
            " || !has(self.zeroStage) || self.zeroStage >= 1",
            message="ZeRO 0 has no optimizer state of its own to offload: set zeroStage to 1, 2 or "
            "3, or remove it",
            field_path=".offloadOptimizer",
            check=lambda wish: (
                wish.offload_optimizer is OffloadDevice.NONE
                or wish.zero_stage is None
                or wish.zero_stage >= 1
            ),
        ),
        Rule(
            cel="!has(self.offloadParameters) || self.offloadParameters == 'None'"
            " || !has(self.zeroStage) || self.zeroStage == 3",
            message="parameters are offloaded by ZeRO 3 alone: set zeroStage to 3, or remove it",
            field_path=".offloadParameters",
            check=lambda wish: (
                wish.offload_parameters is OffloadDevice.NONE or wish.zero_stage in (None, 3)
            ),
        ),
    )


class AfterSuccess(StrEnum):
    """What becomes of files that only an unfinished job needs."""

    KEEP = "Keep"
    DELETE = "Delete"


class OnDiskFull(StrEnum):
    """What follows when the next checkpoint does not fit on the volume."""

    REMOVE_OLDEST = "RemoveOldest"
    STOP = "Stop"


class Checkpoint(SpecModel):
    """Saved training state, from which an interrupted job goes on."""

    every_steps: Steps | None = None
    """Optimizer steps between checkpoints. Absent: one every `status.resolved.checkpointSeconds`,
    while training stands still, and when the pods are asked to stop."""
    asynchronous: Switch = Switch.ENABLED
    """Enabled: training goes on while a checkpoint is written, from a copy of the state in host
    memory: 12 bytes for each trained parameter with AdamW, 4 with SGD, shared among the ranks.
    Disabled: training stands still, and there is no copy."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints that are kept, newest first; the best one is kept besides."""
    on_disk_full: OnDiskFull = OnDiskFull.REMOVE_OLDEST
    """RemoveOldest: the oldest checkpoints make room for the next one, even if `keep` would keep
    them; the newest and the best one stay. Where that does not help, and with Stop, the job ends
    with DiskFull."""
    after_success: AfterSuccess = AfterSuccess.KEEP
    """Delete removes the checkpoints of all attempts once the result is published. The trained
    weights, logs and metrics stay."""
