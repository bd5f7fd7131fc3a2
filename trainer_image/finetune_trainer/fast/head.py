"""The loss of an output layer without its logits: some positions at a time, gradients included.

Logits are [N, V] for N targets and a vocabulary of V, in fp32 beside their softmax and their
gradient: often the largest tensors of a step. Here the gradient of a chunk is computed with its
loss, and its logits are gone before the next one.

Needs an architecture of `PROVED`, which does nothing to the logits after an ordinary linear layer
(no soft cap, no scale) that takes chosen positions only, and weights that are not partitioned
(ZeRO 3). Hooks on that layer switch it off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from finetune_trainer.fast import softmax
from finetune_trainer.fast.matrix import times

CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 30}
"""Logits at a time. Fewer would read the weights more often than it pays."""
COPIES = 8
"""So many times smaller is a chunk on a GPU where torch makes copies of it in fp32."""
PROVED = {
    *("gemma", "gpt2", "llama", "mistral", "olmo", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen3", "smollm3"),
}
"""Model types whose losses and gradients were compared with the plain ones: tests/architectures."""


@dataclass(frozen=True)
class Head:
    """The output layer of a model."""

    layer: nn.Linear

    @property
    def usable(self) -> bool:
        """Not with hooks on it."""
        return not (self.layer._forward_hooks or self.layer._forward_pre_hooks)

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, the model returns what the layer would get: hidden states for logits."""
        vars(self.layer)["forward"] = lambda hidden: hidden
        try:
            yield
        finally:
            del vars(self.layer)["forward"]

    def loss_sum(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in fp32 of hidden states [N, h] and int64 targets [N]."""
        if not torch.is_grad_enabled():
            return self.losses_and_hits(hidden, targets)[0].sum()
        summed: torch.Tensor = _LossSum.apply(hidden, self.layer.weight, self.layer.bias, targets)
        return summed

    def losses_and_hits(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        """Cross-entropy fp32 [N], and how many targets were the likeliest token. No gradient."""
        losses, hits = [torch.zeros(0, device=hidden.device)], 0
        weight = self.layer.weight
        size = _chunk_size(weight, copied=True)
        for part, wanted in _chunks(hidden, targets, size):
            if self.layer.bias is None:
                logits = times(part, weight, rare=len(part) < size)
            else:
                logits = self.layer(part)
            losses.append(functional.cross_entropy(logits.float(), wanted, reduction="none"))
            hits += int((logits.argmax(-1) == wanted).sum())
        return torch.cat(losses), hits


def head_of(model: Any) -> Head | None:
    """The output layer of a model, with an adapter or not; None where it does not fit."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(getattr(inner, "config", None), "model_type", None) not in PROVED:
        return None
    layer = inner.get_output_embeddings()
    # A subclass may be an adapter or a quantised layer; ZeRO 3 marks weights that it partitions.
    if type(layer) is not nn.Linear or hasattr(layer.weight, "ds_id"):
        return None
    return Head(layer)


def _chunk_size(weight: torch.Tensor, *, copied: bool) -> int:
    """Targets whose logits fit into a chunk."""
    size = CHUNK_BYTES[weight.device.type] // (len(weight) * weight.element_size())
    return max(1, size // COPIES if copied and weight.is_cuda else size)


def _chunks(
    hidden: torch.Tensor, targets: torch.Tensor, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(torch.split(hidden, size), torch.split(targets, size), strict=True)


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        summed = torch.zeros((), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        exact = torch.float32  # added up over chunks; rounded once, as without them
        of_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wanted[2] else None
        in_place = softmax.in_one_kernel(hidden)
        at, size = 0, _chunk_size(weight, copied=not in_place)
        for part, aims in _chunks(hidden, targets, size):
            rest = len(part) < size
            logits = times(part, weight, rare=rest)
            if bias is not None:
                logits += bias
            if in_place:
                summed += softmax.losses_in_place(logits, aims).sum()
            else:
                likely = functional.log_softmax(logits.float(), dim=1)
                summed -= likely.gather(1, aims[:, None]).sum()
                # The gradient of the logits: softmax, less one at the target.
                likely.exp_()
                likely.scatter_add_(1, aims[:, None], likely.new_full((len(part), 1), -1.0))
                logits = likely.to(hidden.dtype)
                del likely
            if of_hidden is not None:
                of_hidden[at : at + len(part)] = times(logits, weight.t(), rare=rest)
            if of_weight is not None:
                _add_product(of_weight, logits.t(), part)
            if of_bias is not None:
                of_bias += logits.sum(0, dtype=exact)
            del logits  # before the next ones are made
            at += len(part)
        ctx.found = of_hidden, of_weight, of_bias
        ctx.dtype = hidden.dtype
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Once: the gradients are multiplied where they lie."""
        found, ctx.found = ctx.found, None
        scale = gradients[0]
        return (
            *(None if each is None else each.mul_(scale).to(ctx.dtype) for each in found),
            None,
        )


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left [M, K] by right [K, N] to fp32 [M, N], without rounding where they have 16 bits."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.float(), right.float())
