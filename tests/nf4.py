"""Weights in 4 bits, unpacked by the paper's own words: QLoRA, arXiv:2305.14314."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VALUES = torch.tensor(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )
)
"""NF4, appendix E."""


def unpacked(weight: Any) -> torch.Tensor:
    """fp32: two numbers in a byte, the first in its high half; a scale for 64 of them, which is a
    mean plus 8 bits times what 256 scales share."""
    state = weight.quant_state
    size = state.shape.numel()
    data = weight.data.view(-1)
    numbers = VALUES.to(data.device)[torch.stack([data >> 4, data & 15], 1).view(-1).long()][:size]
    shared = state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    scales = state.state2.code[state.absmax.long()] * shared + state.offset
    return (numbers * scales.repeat_interleave(64)[:size]).view(state.shape)


def bytes_of(data: torch.Tensor, state: Any) -> int:
    """Of a weight with all tensors that belong to it."""
    parts = (data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    return sum(part.nbytes for part in parts)


def save_unpacked(model: Any, original: Any, folder: Path) -> None:
    """``original`` with the weights that ``model``, the same in 4 bits, computes with."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for name, layer in original.named_modules():
            if getattr(layers[name], "quant_state", None) is not None:
                values = unpacked(layers[name].weight)
                # GPT-2's layers hold the transpose.
                layer.weight.copy_(values if values.shape == layer.weight.shape else values.T)
    original.save_pretrained(folder)
