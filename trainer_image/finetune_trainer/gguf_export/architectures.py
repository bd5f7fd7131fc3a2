"""The architectures that are written: configuration keys, tensor names, layout of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter
from transformers import PreTrainedConfig

from finetune_trainer.gguf_export.vocabulary import UnsupportedError


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's."""

    arch: MODEL_ARCH
    pairs: bool = False
    """llama.cpp rotates neighbouring rows of a head (0 with 1), transformers the halves (0 with
    d/2): rows of the query and key projections change their places."""
    scaled_rope: bool = False
    """llama.cpp takes factors of single frequencies from the file (RoPE type llama3)."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, pairs=True, scaled_rope=True),
    "mistral": Architecture(MODEL_ARCH.LLAMA, pairs=True),
    "qwen2": Architecture(MODEL_ARCH.QWEN2),
    "qwen3": Architecture(MODEL_ARCH.QWEN3),
}
"""By ``model_type`` of config.json."""


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Raises ``UnsupportedError``."""
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise UnsupportedError(f"{config.model_type} is not among {', '.join(ARCHITECTURES)}")
    rope = config.rope_parameters
    kinds = ("default", "llama3") if found.scaled_rope else ("default",)
    if rope.get("rope_type", "default") not in kinds:
        raise UnsupportedError(f"its position embedding is scaled ({rope['rope_type']})")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedError("its position embedding turns a part of each head")
    if config.hidden_act != "silu":
        raise UnsupportedError(f"its activation function is {config.hidden_act}")
    if any(getattr(config, key, False) for key in ("attention_bias", "mlp_bias")):
        raise UnsupportedError("its linear layers have biases")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise UnsupportedError(
            f"its attention sees {window} of {config.max_position_embeddings} tokens "
            "(sliding_window)"
        )
    return found


def head_size(config: PreTrainedConfig) -> int:
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def add_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    size = head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def laid_out(
    architecture: Architecture, config: PreTrainedConfig, name: str, tensor: torch.Tensor
) -> torch.Tensor:
    """A tensor of transformers, called ``name`` there, as llama.cpp expects it."""
    if not architecture.pairs or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    heads = tensor.shape[0] // head_size(config)
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def rope_factors(config: PreTrainedConfig) -> torch.Tensor | None:
    """By what llama.cpp divides each frequency, fp32 [head/2]; None: by nothing."""
    if config.rope_parameters.get("rope_type", "default") == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")
    size = head_size(config)
    base = float(config.rope_parameters["rope_theta"])
    plain = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return plain / scaled.float()


def known_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What transformers reads of the hyperparameters in a file."""
    keys = (
        "hidden_size intermediate_size max_position_embeddings num_attention_heads "
        "num_hidden_layers num_key_value_heads rms_norm_eps tie_word_embeddings vocab_size"
    )
    return {key: getattr(config, key) for key in keys.split()}
