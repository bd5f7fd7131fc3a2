"""Norms, gates and rotations in one kernel each on a GPU, where torch would run six to ten.

Each of torch's operations reads and writes whole activations; these, Liger's, do so once. They
compute in the same precision, with sums in fp32, and keep less for the backward pass.

Needs an architecture of `PROVED`, whose RMSNorm has no offset, whose MLP is gated by SiLU, and
which rotates by halves; and weights that are not partitioned (ZeRO 3).
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import nn

from finetune_trainer.fast.kernels import can_compile

PROVED = {"llama", "mistral", "qwen2", "qwen3", "smollm3"}
"""Model types whose losses and gradients were compared with the plain ones: tests/gpu."""


class FusedNorm(nn.Module):
    """Takes the place of a model's RMSNorm: same weight, same name."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        # Not in place: the gradient that it would overwrite may be somebody else's as well.
        found: torch.Tensor = LigerRMSNormFunction.apply(
            hidden, self.weight, self.variance_epsilon, 0.0, "llama", False
        )
        return found


class FusedGate(nn.Module):
    """Takes the place of a model's MLP, down(silu(gate x) * up x)."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        gated = LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x))
        found: torch.Tensor = self.down_proj(gated)
        return found


def attach(model: Any) -> int:
    """Let a model use them, with an adapter or not. Returns the number of norms and gates."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config
    if config.model_type not in PROVED or not can_compile():
        return 0
    count = 0
    for layer in inner.modules():
        name = type(layer).__name__
        if name.endswith("RMSNorm"):
            layer.__class__ = FusedNorm
        elif name.endswith("MLP") and config.hidden_act == "silu":
            layer.__class__ = FusedGate
        else:
            continue
        count += 1
    _rotate_in_one(sys.modules[type(inner).__module__])
    return count


def _rotate_in_one(modelling: Any) -> None:
    """Replace the function by which the layers of an architecture rotate queries and keys."""
    plain = modelling.apply_rotary_pos_emb
    if list(inspect.signature(plain).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return

    def rotated(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **other: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if other or not q.is_cuda or cos.dtype != q.dtype:
            found: tuple[torch.Tensor, torch.Tensor] = plain(q, k, cos, sin, **other)
            return found
        from liger_kernel.ops.rope import LigerRopeFunction

        q, k = LigerRopeFunction.apply(q, k, cos, sin)
        return q, k

    modelling.apply_rotary_pos_emb = rotated
