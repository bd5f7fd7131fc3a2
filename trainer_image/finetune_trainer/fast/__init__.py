"""The same arithmetic in less time: each part applies where it is exact, and leaves the rest alone.

What a part needs of a model stands in its module; where that is not given, the model's own code
runs. None of them changes weights, their names, or what is saved.
"""

from __future__ import annotations

import logging
from typing import Any

KERNELS = (8, 0)
"""Least compute capability for which there are kernels: Ampere. FlashAttention and Triton have none
for older ones."""

log = logging.getLogger(__name__)


def accelerate(model: Any, *, stage: int, on_gpu: bool) -> bool:
    """Let a loaded model, with its adapter if it has one, use what fits it.

    Returns whether it compiles something for each new shape of its inputs.
    """
    import torch

    from finetune_trainer.fast import attention, linear, matrix

    used = []
    in_kernels = on_gpu and torch.cuda.get_device_capability() >= KERNELS
    if attention.attach(model, on_gpu=in_kernels):
        used.append("attention sample by sample")
    # ZeRO 3 gathers weights when their own module is called, which these do not do.
    if stage < 3 and hasattr(model, "peft_config"):
        from finetune_trainer.fast import lora

        if count := lora.attach(model):
            used.append(f"{count} adapted layers in one piece")
    if stage < 3 and in_kernels:
        from finetune_trainer.fast import fused

        if count := fused.attach(model):
            used.append(f"{count} norms and gates in one kernel each, and rotations")
    compiles = stage < 3 and not on_gpu and matrix.faster()
    if compiles:
        count = linear.attach(model)
        used.append(f"oneDNN, also in {count} other layers")
    log.info("faster forms in use: %s", ", ".join(used) or "none")
    return compiles
