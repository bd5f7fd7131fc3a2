"""What a packed row costs to train on, so that ranks that wait for each other get equal work.

Rows of equally many tokens differ: long samples have more pairs of tokens that attend to each
other, and the output layer runs only where there are targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.batches import Indices, PackedRows

ATTENTION = 3
"""How much longer a multiplication takes inside attention than in a matrix product, about."""


@dataclass(frozen=True)
class Costs:
    """Multiplications of a forward pass."""

    token: int
    target: int
    pair: int
    """Of two tokens of a sample, one of which sees the other."""

    def of(self, rows: PackedRows) -> Indices:
        """int64 [R]: the cost of each row."""
        found: Indices = (
            rows.row_lengths * self.token
            + rows.num_supervised * self.target
            + rows.num_pairs * self.pair
        )
        return found


def costs_of(model: Any) -> Costs:
    """Of a causal language model, with an adapter or not. The same on all ranks and attempts."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    outside = {id(each.weight) for each in (embedding, head) if each is not None}
    token = sum(
        numel(each) for each in inner.parameters() if ndim(each) > 1 and id(each) not in outside
    )
    # Each pair is multiplied twice: query by key, weight by value.
    pair = ATTENTION * 2 * _width(inner.config.get_text_config())
    return Costs(token, numel(embedding.weight), pair)


def _width(config: Any) -> int:
    """Numbers of all queries of a token, over all layers; 0 where the model has no such thing."""
    layers, heads = (
        getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads")
    )
    if not isinstance(layers, int) or not isinstance(heads, int):
        return 0
    size: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers * heads * size


def numel(parameter: torch.nn.Parameter) -> int:
    """Numbers of the whole parameter, also where ZeRO 3 keeps a part of it here, or several share a
    byte."""
    return shape_of(parameter).numel()


def ndim(parameter: torch.nn.Parameter) -> int:
    return len(shape_of(parameter))


def shape_of(parameter: torch.nn.Parameter) -> torch.Size:
    packed = getattr(parameter, "quant_state", None)
    shape = parameter.shape if packed is None else packed.shape
    return torch.Size(getattr(parameter, "ds_shape", shape))
