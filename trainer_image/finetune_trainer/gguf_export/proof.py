"""What was written, read again: by transformers as a model, and here as a tokenizer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.gguf_export.architectures import head_size, known_settings
from finetune_trainer.gguf_export.pretokenizers import BY_NAME
from finetune_trainer.same_model import BUG, ExportMismatchError

log = logging.getLogger(__name__)

TEXTS = (
    "What can you help me with?",
    "It's 12345 o'clock, and they'LL pay $6,789.01!\n\n\tif (x >= 10) { return; }  \n",
    "Straße naïve Ελληνικά русский 你好，世界 한국어 עברית ١٢٣ हिन्दी 🙂👩‍👩‍👧",
    "   leading and trailing   ",
)
"""Words, numbers, code, white space, and scripts."""
_MARKS = 64
"""Added tokens that are tried."""


def load_gguf(file: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model in ``file`` by transformers, fp32. ``config``: of the model that it was made from.

    Raises ``ExportMismatchError`` where its hyperparameters are not those of ``config``.
    """
    told: PreTrainedConfig = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    wanted, found = known_settings(config), known_settings(told)
    wrong = [f"{key} {found[key]}" for key in wanted if not _same(wanted[key], found[key])]
    if wrong:
        raise ExportMismatchError(f"{file.name} says {', '.join(wrong)}", BUG)
    # transformers does not read these two from every architecture's file.
    told.rope_parameters, told.head_dim = config.rope_parameters, head_size(config)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=told,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    assert isinstance(model, PreTrainedModel)  # noqa: S101 - narrows the auto class for mypy
    return model


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * abs(one)  # the file holds fp32
    return one == other


def check_tokenizer(file: Path, tokenizer: Tokenizer, texts: tuple[str, ...]) -> None:
    """The tokenizer in ``file`` makes the same ids of ``texts``. Raises ``ExportMismatchError``."""
    again, added = read_tokenizer(file), list(tokenizer.added_tokens_decoder.values())
    marked = "".join(f"{token.content}text" for token in added[:_MARKS])
    for text in (*texts, marked):
        expected = tokenizer.encode(text, add_special_tokens=False)
        found = again.encode(text, add_special_tokens=False).ids
        if found != expected:
            raise ExportMismatchError(
                f"{file.name} makes other tokens of {text[:40]!r} than the trained model's "
                "tokenizer",
                BUG,
            )


def read_tokenizer(file: Path) -> Backend:
    """The byte-level BPE tokenizer that ``file`` describes, as llama.cpp would build it."""
    fields = {
        key: value.contents()
        for key, value in GGUFReader(file).fields.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    rule = BY_NAME[fields["tokenizer.ggml.pre"]]
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": rule.json,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": {text: index for index, text in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
            "ignore_merges": rule.ignore_merges,
        },
    }
    backend = Backend.from_str(json.dumps(content))
    added = {
        kind: [
            AddedToken(text, normalized=False)
            for text, known in zip(tokens, types, strict=True)
            if known == kind
        ]
        for kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    backend.add_special_tokens(added[TokenType.CONTROL])
    backend.add_tokens(added[TokenType.USER_DEFINED])
    return backend
