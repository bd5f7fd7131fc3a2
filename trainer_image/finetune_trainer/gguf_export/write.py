"""Writing a GGUF file from a folder of safetensors, one tensor in memory at a time."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quantize,
)
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import GgufType, RunConfig
from finetune_trainer.errors import StageError
from finetune_trainer.gguf_export.architectures import (
    Architecture,
    add_hyperparameters,
    architecture_of,
    laid_out,
    rope_factors,
)
from finetune_trainer.gguf_export.vocabulary import UnsupportedError, add_vocabulary, vocabulary_of

log = logging.getLogger(__name__)

ROPE_FACTORS = "rope_freqs.weight"
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class About:
    """What the file says of itself."""

    name: str
    base_model: str
    base_repository: str | None = None
    """``organization/name``, where the base model came from a hub."""
    licence: str | None = None
    """As model hubs write it; ``other`` goes with the next two."""
    licence_name: str | None = None
    licence_link: str | None = None


def about(config: RunConfig, base: Mapping[str, Any]) -> About:
    """``base``: the manifest of the model that was trained."""
    licence = base.get("licence") or {}
    hub = config.model.hub
    return About(
        name=config.job.name,
        base_model=base["source"],
        base_repository=hub.repository if hub else None,
        licence=licence.get("license"),
        licence_name=licence.get("license_name"),
        licence_link=licence.get("license_link"),
    )


@dataclass(frozen=True)
class _Place:
    """A tensor on its way into the file."""

    source: str
    """Name in safetensors."""
    shape: tuple[int, ...]
    type: GGMLQuantizationType


def write_gguf(
    source: Path, file: Path, kind: GgufType, tokenizer: Tokenizer, stops: list[int], told: About
) -> None:
    """Write the model in folder ``source`` to ``file``; weights of type ``kind``, norms fp32.

    Raises ``UnsupportedError``, and ``StageError`` where a weight is too large for F16.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    architecture = architecture_of(config)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size)
    writer = GGUFWriter(file, MODEL_ARCH_NAMES[architecture.arch])
    _add_general(writer, kind, told)
    add_hyperparameters(writer, config)
    add_vocabulary(writer, vocabulary, tokenizer, stops)
    with ExitStack() as stack:
        held = _open(source, stack)
        places = dict(_places(architecture, config, held, kind))
        factors = rope_factors(config)
        if factors is not None:
            _announce(writer, ROPE_FACTORS, tuple(factors.shape), GGMLQuantizationType.F32)
        for name, place in places.items():
            _announce(writer, name, place.shape, place.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for place in places.values():
            tensor = held[place.source].get_tensor(place.source)
            _write(writer, laid_out(architecture, config, place.source, tensor).float(), place)
    writer.close()
    log.info("wrote %s: %d tensors, %s", file.name, len(places), kind)


def _add_general(writer: GGUFWriter, kind: GgufType, told: About) -> None:
    writer.add_type(GGUFType.MODEL)
    writer.add_name(told.name)
    if told.licence:
        writer.add_license(told.licence)
    if told.licence_name:
        writer.add_license_name(told.licence_name)
    if told.licence_link:
        writer.add_license_link(told.licence_link)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, told.base_model)
    if told.base_repository:
        writer.add_base_model_repo_url(0, f"{constants.ENDPOINT}/{told.base_repository}")
    writer.add_tags(["finetune-operator", "text-generation"])
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _open(source: Path, stack: ExitStack) -> dict[str, Any]:
    """Open file by name of tensor."""
    held: dict[str, Any] = {}
    for path in sorted(source.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        held |= dict.fromkeys(file.keys(), file)
    return held


def _places(
    architecture: Architecture,
    config: PreTrainedConfig,
    held: Mapping[str, Any],
    kind: GgufType,
) -> Iterator[tuple[str, _Place]]:
    names = get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    for source, file in held.items():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UnsupportedError(f"llama.cpp has no name for its tensor {source}")
        shape = tuple(file.get_slice(source).get_shape())
        yield name, _Place(source, shape, _type_of(shape, kind))


def _type_of(shape: tuple[int, ...], kind: GgufType) -> GGMLQuantizationType:
    """Vectors stay fp32, as llama.cpp wants them; rows that are no multiple of a block F16."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[kind]
    whole = shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if whole else GGMLQuantizationType.F16


def _announce(
    writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType
) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    whole = np.dtype(np.float32)  # of what is counted in shape; the file says kind
    writer.add_tensor_info(name, shape, whole, prod(shape) // block * size, kind)


def _write(writer: GGUFWriter, tensor: torch.Tensor, place: _Place) -> None:
    largest = float(tensor.abs().max())
    if place.type is GGMLQuantizationType.F16 and largest > _LARGEST_F16:
        raise StageError(
            f"spec.output.gguf.type: {place.source} has a value of {largest:.3g}, and F16 ends at "
            f"{_LARGEST_F16:g}",
            "take BF16",
        )
    content = quantize(tensor.contiguous().numpy(), place.type)
    try:
        writer.write_tensor_data(content)
    except OSError as error:
        if error.errno is None:  # numpy says no more than that less was written than asked
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(writer.path)) from error
        raise
