"""Causal attention within samples of any length, back to back, by one kernel of the GPU.

torch's own: FlashAttention, or cuDNN's where torch prefers it. Only pairs of tokens that see each
other cost anything, and key and value heads are not repeated for the queries that share them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch.nn.attention.varlen import varlen_attn

if TYPE_CHECKING:
    from finetune_trainer.fast.attention import Blocks

# Newer torch wants to be told of shared heads; older takes them as they come.
_SHARED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Blocks,
    scaling: float | None,
) -> torch.Tensor:
    """Query [B, H, T, d], key and value [B, H or fewer, T, d] in 16 bits; returns [B, T, H, d]."""
    batch, heads, length, size = query.shape
    flat = [
        each.transpose(1, 2).reshape(batch * length, each.shape[1], size)
        for each in (query, key, value)
    ]
    longest = blocks.longest
    found: torch.Tensor = varlen_attn(
        *flat,
        blocks.ends,
        blocks.ends,  # the very same tensor: it tells cuDNN that both orders are one
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        **_SHARED,
    )
    return found.view(batch, length, heads, size)
