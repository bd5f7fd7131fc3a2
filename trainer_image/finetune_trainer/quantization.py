"""Frozen weights in 4 bits (QLoRA, arXiv:2305.14314): NF4, with the scales quantized in turn.

All linear layers but the output head; embeddings, norms and adapters keep the job's precision, in
which a layer is unpacked for each product. bitsandbytes does it, and is imported by no other job.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch.nn import functional

BLOCK = 64
"""Weights that share a scale."""
SCALES = 256
"""Scales, of 8 bits, that share one in fp32."""
TABLE_BYTES = 4 * (16 + 256 + 1)
"""Of each weight: the values of its 4 bits, those of its scales' 8 bits, and the scales' mean."""


def packed_bytes(numbers: int) -> int:
    """What a weight of so many numbers takes with all that belongs to it."""
    scales = -(-numbers // BLOCK)
    return -(-numbers // 2) + scales + 4 * -(-scales // SCALES) + TABLE_BYTES


def loading_options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """For ``from_pretrained``, which then quantizes each weight on ``device`` as it reads it: host
    memory holds one at a time. ``dtype`` is that of the unpacked weights."""
    from transformers import BitsAndBytesConfig

    # Its import says that a kernel for CPUs is missing, which nothing here would use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }


def quantized_layers(model: torch.nn.Module) -> list[Any]:
    """The layers whose weights are packed."""
    return [layer for layer in model.modules() if getattr(layer, "quant_state", None) is not None]


def unpack(weight: torch.Tensor, state: Any) -> torch.Tensor:
    """[out, in] in the precision that it was read in, from the bytes of a weight and what
    bitsandbytes noted of it.

    As one row: of several, its kernel for CPUs with AVX-512 takes a block of scales to end with a
    row, which is wrong where 64 does not divide its length.
    """
    from bitsandbytes.functional import dequantize_blockwise

    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    row: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        weight.data, scales, state.blocksize, state.quant_type, (state.shape.numel(),), state.dtype
    )
    return row.view(state.shape)


def compute_exactly(model: torch.nn.Module) -> None:
    """Let layers on a CPU multiply with what `unpack` makes. bitsandbytes would repack weights when
    a layer is first used in evaluation mode, on CPUs with BF16, and multiply in that from then on,
    whatever the model's precision, and without gradients."""
    for layer in quantized_layers(model):
        if layer.weight.device.type == "cpu":
            layer.forward = partial(_linear, layer)


def _linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, unpack(layer.weight, layer.weight.quant_state), layer.bias)
