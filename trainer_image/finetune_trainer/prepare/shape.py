"""What a memory plan must know of a model: sizes, read from the model without its weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from finetune_trainer.config import Lora
from finetune_trainer.fast import attention, fused, head
from finetune_trainer.quantization import packed_bytes


def shape_of(model: Any) -> dict[str, Any]:
    """Sizes of a model on the meta device, with its linear layers counted by name and size.

    The output head is none of these: adapters leave it out.
    """
    config = model.config.get_text_config()
    hidden, heads = config.hidden_size, config.num_attention_heads
    wide = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    wide = wide or 4 * hidden
    linear = _linear_layers(model)
    layers = config.num_hidden_layers
    into_mlp = sum(count for (_, *sizes), count in linear.items() if sizes == [hidden, wide])
    both = any(sizes == [hidden, 2 * wide] for _, *sizes in linear)
    size = getattr(config, "head_dim", None) or hidden // heads
    kinds = {type(module).__name__ for module in model.modules()}
    return {
        "largest": max(weight.numel() for weight in model.parameters()),
        "layers": layers,
        "hidden": hidden,
        "attention": heads * size,
        "keyValue": (getattr(config, "num_key_value_heads", None) or heads) * size,
        "intermediate": wide,
        "vocabulary": config.vocab_size,
        "gated": both or into_mlp >= 2 * layers,
        "rmsNorm": any("RMSNorm" in kind for kind in kinds),
        "stepwiseGelu": "NewGELUActivation" in kinds,
        "chunkedLoss": config.model_type in head.PROVED,
        "bySample": config.model_type in attention.PROVED,
        "fused": config.model_type in fused.PROVED,
        "linear": [[*key, count] for key, count in sorted(linear.items())],
    }


def shape_of_job(model: dict[str, Any], lora: Lora | None) -> dict[str, Any]:
    """The shape in a model's manifest, with what the method trains in place of linear layers."""
    shape = dict(model["shape"])
    linear = shape.pop("linear")
    if lora is None:
        return {**shape, "trainable": model["parameters"]}
    wanted = lora.target_modules
    names = None if wanted == "AllLinear" else {name.rpartition(".")[2] for name in wanted}
    found = [entry[1:] for entry in linear if names is None or entry[0] in names]
    packed = [(inputs * outputs, count) for _, inputs, outputs, count in linear]
    magnitudes = sum(outputs * count for _, outputs, count in found) if lora.dora else 0
    return {
        **shape,
        "trainable": sum(lora.rank * (inputs + outputs) * n for inputs, outputs, n in found)
        + magnitudes,
        "largest": max(
            (lora.rank * max(inputs, outputs) for inputs, outputs, _ in found), default=0
        ),
        "adapters": sum(count for *_, count in found),
        "adapterInputs": sum(inputs * count for inputs, _, count in found),
        "adapterOutputs": sum(outputs * count for _, outputs, count in found),
        **(_quantized(packed) if lora.quantization else {}),
    }


def _quantized(layers: list[tuple[int, int]]) -> dict[str, int]:
    """Of weights by size and number."""
    return {
        "quantized": sum(size * count for size, count in layers),
        "quantizedBytes": sum(packed_bytes(size) * count for size, count in layers),
        "largestQuantized": max((size for size, _ in layers), default=0),
    }


def _linear_layers(model: Any) -> Counter[tuple[str, int, int]]:
    """How many there are by (last part of the name, input features, output features)."""
    output = model.get_output_embeddings()
    found: Counter[tuple[str, int, int]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not output:
            found[name.rpartition(".")[2], module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):  # the same with its weight transposed
            inputs, outputs = module.weight.shape
            found[name.rpartition(".")[2], inputs, outputs] += 1
    return found
