"""Frozen weights in 4 bits (QLoRA, arXiv:2305.14314): NF4, with the scales quantized in turn.

All linear layers but the output head; embeddings, norms and adapters keep the job's precision, in
which a layer is unpacked for each product. bitsandbytes does it, and is imported by no other job.
"""

from __future__ import annotations

from typing import Any

import torch

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

    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }


def quantized_layers(model: torch.nn.Module) -> list[Any]:
    """The layers whose weights are packed."""
    return [layer for layer in model.modules() if getattr(layer, "quant_state", None) is not None]


def unpack_exactly(model: torch.nn.Module) -> None:
    """On some CPUs bitsandbytes would repack weights when a layer is first used in evaluation mode,
    to multiply them in BF16 whatever the model's precision, and without gradients from then on."""
    for layer in quantized_layers(model):
        layer.support_avx512bf16_for_cpu = False
