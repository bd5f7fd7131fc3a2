"""A frozen linear layer and its adapter as one step of autograd.

``x Wᵀ + s (x Aᵀ) Bᵀ`` is added up where it lies instead of in tensors of its own, forward and
backward. Kept for the backward pass: x, x Aᵀ, and a bit per number of x where there is dropout.

Needs plain LoRA (no DoRA or other variant) with one adapter on an ordinary, frozen linear layer, or
on one in 4 bits, which is unpacked for each product and never kept; anything else of peft's layer
(merged, switched off, other adapters, mixed types) is peft's own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn

from finetune_trainer.fast.matrix import times
from finetune_trainer.quantization import unpack


class OnePiece:
    """Before a layer of peft's: a forward pass that is one piece where that is the same."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        (name,) = self.lora_A
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        state = getattr(base.weight, "quant_state", None)
        kind = base.weight.dtype if state is None else state.dtype
        if (
            self.disable_adapters
            or self.merged
            or self.active_adapters != [name]
            or args
            or kwargs
            or base._forward_hooks
            or not x.dtype == kind == a.dtype == b.dtype
            # There are kernels for few tokens that unpack as they multiply.
            or (state is not None and not torch.is_grad_enabled())
        ):
            plain: torch.Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return plain
        kept, rate = None, getattr(self.lora_dropout[name], "p", 0.0)
        if rate and self.training:
            # Drawn as functional.dropout draws it, which makes the same numbers.
            kept = torch.empty_like(x).bernoulli_(1 - rate).bool()
        scales = self.scaling[name], 1 - rate
        found: torch.Tensor = _Adapted.apply(x, base.weight, base.bias, a, b, kept, *scales, state)
        return found


class LoraLinear(OnePiece, Linear):
    """Of an ordinary linear layer."""


@cache
def _faster_form(kind: Any) -> type:
    """peft's class for layers in 4 bits is not there unless bitsandbytes is."""
    return LoraLinear if kind is Linear else type("LoraLinear4bit", (OnePiece, kind), {})


def attach(model: nn.Module) -> int:
    """Let all layers use it that it fits. Returns their number."""
    fitting: list[Any] = [layer for layer in model.modules() if _fits(layer)]
    for layer in fitting:
        layer.__class__ = _faster_form(type(layer))  # type: ignore[arg-type]
    return len(fitting)


def _fits(layer: Any) -> bool:
    plain, packed = (type(layer) is Linear), _adapts_packed(layer)
    if not (plain or packed) or len(layer.lora_A) != 1:
        return False
    if layer.lora_variant or layer.fan_in_fan_out:
        return False
    (name,) = layer.lora_A
    base, down, up = layer.base_layer, layer.lora_A[name], layer.lora_B[name]
    dropout = layer.lora_dropout[name]
    inner = base, down, up, dropout
    return (
        all(type(each) is nn.Linear for each in (down, up))
        and (packed or type(base) is nn.Linear)
        and type(dropout) in (nn.Identity, nn.Dropout)
        and not getattr(dropout, "p", 0.0) >= 1
        and down.bias is None
        and up.bias is None
        and not any(parameter.requires_grad for parameter in base.parameters())
        and not any(each._forward_hooks or each._forward_pre_hooks for each in inner)
    )


def _adapts_packed(layer: nn.Module) -> bool:
    kind = type(layer)
    return f"{kind.__module__}.{kind.__name__}" == "peft.tuners.lora.bnb.Linear4bit"


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        kept: torch.Tensor | None,
        scale: float,
        share: float,
        state: Any = None,
    ) -> torch.Tensor:
        """x [..., in], weight [out, in], A [r, in], B [out, r]; kept: bool as x, a ``share`` of it
        true. ``state``: by which the weight is unpacked."""
        reduced = times(_dropped(x, kept, share).flatten(0, -2), a)
        out = times(x.flatten(0, -2), weight if state is None else unpack(weight, state))
        if bias is not None:
            out += bias
        out.addmm_(reduced, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, reduced, kept)
        ctx.scales, ctx.state = (scale, share), state
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, reduced, kept = ctx.saved_tensors
        scale, share = ctx.scales
        of_out = gradients[0].flatten(0, -2)
        of_reduced = times(of_out, b.t()).mul_(scale)
        of_a = of_b = of_x = None
        if ctx.needs_input_grad[3]:
            of_a = times(of_reduced.t(), _dropped(x, kept, share).flatten(0, -2).t())
        if ctx.needs_input_grad[4]:
            of_b = times(of_out.t(), reduced.t()).mul_(scale)
        if ctx.needs_input_grad[0]:
            whole = weight if ctx.state is None else unpack(weight, ctx.state)
            of_x = times(of_out, whole.t())
            if kept is None:
                of_x.addmm_(of_reduced, a)
            else:
                of_x.add_(_dropped(of_reduced @ a, kept.flatten(0, -2), share))
            of_x = of_x.view(x.shape)
        return of_x, None, None, of_a, of_b, None, None, None, None


def _dropped(x: torch.Tensor, kept: torch.Tensor | None, share: float) -> torch.Tensor:
    return x if kept is None else x * kept.to(x.dtype).div_(share)
