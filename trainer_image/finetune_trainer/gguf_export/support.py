"""Whether a model can be written as a GGUF file, asked before anything is trained."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.gguf_export.architectures import architecture_of
from finetune_trainer.gguf_export.vocabulary import UnsupportedError, vocabulary_of
from finetune_trainer.model import load_tokenizer


def check_support(folder: Path, architecture: str) -> None:
    """``folder``: the prepared model; ``architecture``: its class, for the message.

    Raises ``ConfigInvalid``.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    try:
        architecture_of(config)
        vocabulary_of(load_tokenizer(folder), config.vocab_size)
    except UnsupportedError as error:
        raise ConfigInvalid(
            f"spec.output.formats: GGUF is not supported for this {architecture}: {error}",
            "take Merged, which llama.cpp's own convert_hf_to_gguf.py reads, or another model",
        ) from error
