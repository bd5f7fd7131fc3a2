"""The settings DeepSpeed is given: pure functions of the job, the precision and the stage."""

from __future__ import annotations

from typing import Any, Literal

import torch

from finetune_trainer.config import Offload, Training
from finetune_trainer.errors import ConfigInvalid

Precision = Literal["BF16", "FP16", "FP32"]
DTYPES: dict[Precision, torch.dtype] = {
    "BF16": torch.bfloat16,
    "FP16": torch.float16,
    "FP32": torch.float32,
}
BUCKET_ELEMENTS = 50_000_000
"""Elements of a communication bucket; DeepSpeed allocates it in full, whatever the model's size."""


NO_OFFLOAD = Offload()


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """BF16 where the GPU computes in it, else FP32; FP16 only on request."""
    if requested == "Auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "BF16" if native else "FP32"
    return requested  # type: ignore[return-value]  # Auto is gone


def effective_stage(stage: int, precision: Precision) -> int:
    """ZeRO stage that really runs.

    Stage 0 in 16 bits cannot add up gradients in fp32, which loses bits over long windows; stage 1
    can, at the same traffic and less memory.
    """
    return 1 if stage == 0 and precision != "FP32" else stage


def deepspeed_config(
    training: Training,
    stage: int,
    precision: Precision,
    *,
    trainable: int,
    offload: Offload = NO_OFFLOAD,
) -> dict[str, Any]:
    """Every key whose default is silent, changed between versions, or depends on the precision.

    ``trainable`` is the number of trainable parameters; buckets are not made larger than that.
    Raises ``ConfigInvalid`` for an offload that the stage does not have: DeepSpeed would not say.
    """
    _check_offload(offload, stage)
    bucket = max(2, min(trainable + trainable % 2, BUCKET_ELEMENTS))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        # The loop owns the window: backward() accumulates, step() ends it.
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if stage == 0 else training.max_grad_norm,
        "steps_per_print": 1_000_000_000,
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW does an offloaded step, too: as fast as DeepSpeed's and more exact.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **_offloaded(offload),
        },
        "checkpoint": {"load_universal": False},
    }
    if precision != "FP32":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    if precision == "BF16":
        config["bf16"] = {
            "enabled": True,
            "check_grad_overflow": True,
            # Else a gradient that comes before the model's own backward pass, as an output layer's
            # does whose loss is made apart, is wiped out; and those of 16 bits are kept beside.
            "immediate_grad_update": True,
        }
    if precision == "FP16":
        # A scale that is too high costs a step each time, so every overflow halves it.
        config["fp16"] = {
            "enabled": True,
            "loss_scale": 0,
            "initial_scale_power": 16,
            "hysteresis": 1,
        }
    return config


def _offloaded(offload: Offload) -> dict[str, Any]:
    wanted = {"offload_optimizer": offload.optimizer, "offload_param": offload.parameters}
    # Pinned: the GPU copies by itself, at the full speed of its bus.
    place = {"device": "cpu", "pin_memory": True}
    return {name: place for name, device in wanted.items() if device == "CPU"}


def _check_offload(offload: Offload, stage: int) -> None:
    if offload.optimizer == "CPU" and stage == 0:
        raise ConfigInvalid("spec.deepspeed.offloadOptimizer: ZeRO 0 has no part to offload")
    if offload.parameters == "CPU" and stage != 3:
        raise ConfigInvalid(f"spec.deepspeed.offloadParameters: ZeRO {stage} keeps weights whole")
