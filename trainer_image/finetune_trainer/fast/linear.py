"""Linear layers without an adapter, trained or frozen, on machines where `matrix` is faster.

Needs an ordinary linear layer whose weights are not partitioned (ZeRO 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune_trainer.fast.matrix import times


class FastLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self.weight.dtype or x.dim() < 2:
            return super().forward(x)
        found: torch.Tensor = _Linear.apply(x, self.weight, self.bias)
        return found


def attach(model: Any) -> int:
    """Let all layers use it. Returns their number.

    Not the output layer, nor what is inside an adapted one: these have forms of their own.
    """
    own = [model.get_output_embeddings()]
    own += [
        each for layer in model.modules() if hasattr(layer, "lora_A") for each in layer.modules()
    ]
    others = {id(each) for each in own}
    layers = [
        each for each in model.modules() if type(each) is nn.Linear and id(each) not in others
    ]
    for layer in layers:
        layer.__class__ = FastLinear
    return len(layers)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """x [..., in], weight [out, in]."""
        out = times(x.flatten(0, -2), weight)
        if bias is not None:
            out += bias
        wanted = ctx.needs_input_grad
        ctx.save_for_backward(x if wanted[1] else None, weight if wanted[0] else None)
        ctx.shape = x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_out = gradients[0].flatten(0, -2)
        wanted = ctx.needs_input_grad
        return (
            times(of_out, weight.t()).view(ctx.shape) if wanted[0] else None,
            times(of_out.t(), x.flatten(0, -2).t()) if wanted[1] else None,
            of_out.sum(0) if wanted[2] else None,
        )
