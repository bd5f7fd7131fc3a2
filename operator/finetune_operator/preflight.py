"""Does a rank fit into its memory? The plan of `memory_plan` for a job's own settings."""

from __future__ import annotations

from dataclasses import fields

from .api.schema import quantity_value
from .api.types import (
    DataStatus,
    FineTuneJobSpec,
    MemoryStatus,
    ModelStatus,
    OptimizerType,
    Packing,
    Switch,
)
from .fit_choice import Choice, choose, gigabytes, left_open
from .host_memory import host_bytes
from .memory_ladder import Fit, difference, next_rung
from .memory_plan import Memory, Setup, Shape, predict

LARGEST = 3
"""Parts that a sentence names."""
MOST = (1 << 63) - 1
"""Bytes that a status has room for. A model that needs more is none."""


def predicted(
    spec: FineTuneJobSpec, fit: Fit, model: ModelStatus | None, data: DataStatus | None
) -> MemoryStatus | None:
    """What a rank will need, and the nearest smaller fit where that is too much.

    None as long as prepare has not told the model's shape, or where somebody made it up: numbers
    that contradict each other, or beyond all bounds.
    """
    shape = _shape(model)
    if shape is None:
        return None
    setup = _setup(spec, data, fit)
    need, available = predict(shape, setup, fit), available_bytes(spec)
    host, host_available = None, None
    if fit.on_gpu:
        host, host_available = host_bytes(shape, setup, fit), _share_of_pod(spec)
    if max(need.total, host or 0) > MOST:
        return None
    short = available is not None and need.total > available
    return MemoryStatus(
        predicted_bytes=need.total,
        available_bytes=available,
        parts={_wire(name): size for name, size in _parts(need) if size},
        host_bytes=host,
        host_available_bytes=host_available,
        fits_with=_nearest(spec, shape, setup, fit) if short else None,
    )


def chosen(
    spec: FineTuneJobSpec, default: Fit, model: ModelStatus | None, data: DataStatus | None
) -> Choice | None:
    """What the spec leaves open of the fit. None: nothing, or memory is not known."""
    shape, available, may = _shape(model), available_bytes(spec), left_open(spec)
    if shape is None or available is None:
        return None
    if not (may.micro or may.activation_checkpointing or may.zero_stage):
        return None
    setup = _setup(spec, data, default)
    return choose(default, may, lambda fit: predict(shape, setup, fit).total, available)


def available_bytes(spec: FineTuneJobSpec) -> int | None:
    """Of a GPU as the spec says; on CPU a rank's share of its pod's memory limit."""
    workers = spec.workers
    if workers.gpus_per_worker:
        known = workers.memory_per_gpu
        return None if known is None else quantity_value(known)
    return _share_of_pod(spec)


def _share_of_pod(spec: FineTuneJobSpec) -> int | None:
    """A rank's share of its pod's memory limit."""
    limits = (spec.workers.resources and spec.workers.resources.limits) or {}
    limit = limits.get("memory")
    return None if limit is None else quantity_value(limit) // spec.workers.ranks_per_pod


def fits(memory: MemoryStatus) -> bool | None:
    """None: it is not known how much a rank has."""
    if host_is_short(memory):
        return False
    if memory.available_bytes is None or memory.predicted_bytes is None:
        return None
    return memory.predicted_bytes <= memory.available_bytes


def host_is_short(memory: MemoryStatus) -> bool:
    """The rank's share of its pod does not hold what is moved there from a GPU."""
    if memory.host_bytes is None or memory.host_available_bytes is None:
        return False
    return memory.host_bytes > memory.host_available_bytes


def tell_host(memory: MemoryStatus) -> str:
    """What the host holds for a rank with a GPU, and what to do where that is too little."""
    return (
        f"a rank is predicted to need {gigabytes(memory.host_bytes or 0)} of host memory at least "
        f"and has {gigabytes(memory.host_available_bytes or 0)}: raise "
        "spec.workers.resources.limits.memory, or use less offload and set checkpoint.asynchronous "
        "to Disabled"
    )


def tell(memory: MemoryStatus) -> str:
    """One sentence: what a rank needs, its largest parts, and what to do where it is too much."""
    parts = sorted((memory.parts or {}).items(), key=lambda part: -part[1])[:LARGEST]
    named = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts)
    need, available = memory.predicted_bytes or 0, memory.available_bytes
    sentence = f"a rank is predicted to need {gigabytes(need)} at its worst moment ({named})"
    if host_is_short(memory):
        return f"{tell_host(memory)}; of its GPU, {sentence}"
    if available is None:
        return f"{sentence}; how much it has is not known"
    sentence += f" and has {gigabytes(available)}"
    if need <= available:
        return sentence
    if memory.fits_with:
        return f"{sentence}; it would fit with {memory.fits_with}"
    if memory.host_bytes is None:
        return f"{sentence}; no smaller micro-batch, checkpointing or ZeRO stage makes it fit"
    return (
        f"{sentence}; no smaller micro-batch, checkpointing, ZeRO stage or offload makes it fit, "
        "as far as the host has memory"
    )


def _nearest(spec: FineTuneJobSpec, shape: Shape, setup: Setup, fit: Fit) -> str | None:
    """The first rung of the ladder down from ``fit`` that fits, as what is different there."""
    available, host = available_bytes(spec), _share_of_pod(spec)
    below = fit
    while rung := next_rung(below):
        below, _ = rung
        if below.offloads and host is not None and host_bytes(shape, setup, below) > host:
            return None
        if available is not None and predict(shape, setup, below).total <= available:
            return difference(fit, below)
    return None


def _shape(model: ModelStatus | None) -> Shape | None:
    if model is None or model.shape is None or model.parameters is None:
        return None
    told = model.shape.model_dump(exclude_none=True)
    try:
        shape = Shape(parameters=model.parameters, **told)
    except TypeError:  # an incomplete report
        return None
    return shape if shape.quantized <= shape.parameters else None


def _setup(spec: FineTuneJobSpec, data: DataStatus | None, fit: Fit) -> Setup:
    on_gpu, training, lora = spec.workers.gpus_per_worker > 0, spec.training, spec.method.lora
    longest = spec.data.sequence_length
    return Setup(
        precision=training.precision.value if training.precision else "BF16" if on_gpu else "FP32",
        device="GPU" if on_gpu else "CPU",
        row_tokens=(data and data.longest_row) or longest,
        row_targets=(data and data.most_supervised) or longest,
        optimizer="AdamW" if training.optimizer.type is OptimizerType.ADAMW else "SGD",
        lora_rank=lora.rank if lora else 0,
        lora_dropout=lora is not None and float(lora.dropout) > 0,
        dora=lora is not None and lora.dora is Switch.ENABLED,
        packed=spec.data.packing is Packing.ISOLATED,
        checkpoint_copy=fit.checkpoint_copy,
    )


def _parts(memory: Memory) -> list[tuple[str, int]]:
    return [(part.name, getattr(memory, part.name)) for part in fields(memory)]


def _wire(name: str) -> str:
    return "checkpointCopy" if name == "checkpoint_copy" else name
