"""A merged model as one GGUF file, proved by reading it again."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from finetune_trainer.config import GgufType
from finetune_trainer.gguf_export.proof import TEXTS, check_tokenizer, load_gguf
from finetune_trainer.gguf_export.write import About, write_gguf
from finetune_trainer.judging.questions import stop_tokens
from finetune_trainer.model import load_model, load_tokenizer
from finetune_trainer.same_model import compare, logits
from finetune_trainer.smoke_test import QUESTIONS, question_ids, smoke_test

_PRECISIONS: dict[GgufType, str] = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "Q8_0": "q8_0",
}


def export_gguf(
    whole: Path, file: Path, kind: GgufType, told: About
) -> tuple[float, dict[str, Any]]:
    """Write ``file`` from the merged model in ``whole``; returns the largest logit difference
    between the two after reload, and what the file's model said to a question.

    Raises ``StageError``.
    """
    tokenizer = load_tokenizer(whole)
    generation = GenerationConfig.from_pretrained(whole)
    stops = stop_tokens(generation, tokenizer, None)
    stops.sort(key=lambda token: token != tokenizer.eos_token_id)
    write_gguf(whole, file, kind, tokenizer, stops, told)
    check_tokenizer(file, tokenizer, (*TEXTS, *QUESTIONS))
    prompts = [question_ids(tokenizer, text) for text in QUESTIONS]
    merged = load_model(whole, torch.float32)
    expected, config = logits(merged, prompts), merged.config
    del merged
    gc.collect()
    reloaded = load_gguf(file, config)
    reloaded.generation_config = generation
    difference = compare(expected, logits(reloaded, prompts), _PRECISIONS[kind], "GGUF file")
    return difference, smoke_test(reloaded, tokenizer)
