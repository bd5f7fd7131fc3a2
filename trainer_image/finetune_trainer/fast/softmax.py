"""Cross-entropy and the gradient of its logits in one kernel on a GPU, in place: Liger's.

The softmax is computed in fp32, and the gradient rounded once, as torch's operations do. Those
make three copies of all logits in fp32 on the way.
"""

from __future__ import annotations

import torch

from finetune_trainer.fast import KERNELS
from finetune_trainer.fast.kernels import can_compile


def in_one_kernel(tensor: torch.Tensor) -> bool:
    """Whether logits that lie where ``tensor`` does can have it."""
    if not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device) < KERNELS:
        return False
    return can_compile()


def losses_in_place(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy fp32 [N] of logits [N, V] and int64 targets [N], each below V.

    Afterwards ``logits`` are the gradient of the losses' sum.
    """
    from liger_kernel.ops.cross_entropy import MAX_FUSED_SIZE, liger_cross_entropy_kernel
    from triton import next_power_of_2  # type: ignore[import-untyped]

    count, vocabulary = logits.shape
    assert logits.is_contiguous() and targets.is_contiguous()  # noqa: S101 - the kernel walks them
    losses = torch.empty(count, dtype=torch.float32, device=logits.device)
    blackwell = logits.is_cuda and torch.cuda.get_device_capability(logits.device) >= (10, 0)
    # Not by Liger's own function: that keeps the losses in 16 bits, and waits for the GPU.
    liger_cross_entropy_kernel[(count,)](
        X_ptr=logits,
        X_stride=logits.stride(0),
        Y_ptr=targets,
        Y_stride=targets.stride(0),
        weight_ptr=None,
        loss_ptr=losses,
        z_loss_ptr=None,
        loss_stride=losses.stride(0),
        token_accuracy_ptr=None,
        token_accuracy_stride=0,
        predicted_tokens_ptr=None,
        predicted_tokens_stride=0,
        n_cols=vocabulary,
        n_non_ignore=count,
        sum_non_ignore_weight=count,
        weight_sum=0.0,
        ignore_index=-100,
        lse_square_scale=0.0,
        label_smoothing=0.0,
        reduction="sum",
        softcap=None,
        RETURN_Z_LOSS=False,
        RETURN_TOKEN_ACCURACY=False,
        RETURN_PREDICTED_TOKENS=False,
        BLOCK_SIZE=min(MAX_FUSED_SIZE, next_power_of_2(vocabulary)),
        HAS_WEIGHT=False,
        HAS_SOFTCAPPING=False,
        HAS_GRADIENTS=True,
        num_warps=8 if blackwell and logits.element_size() == 2 else 32,  # as Liger measured
    )
    return losses
