"""The trained weights as one whole model, proved by loading it again in plain transformers.

It is compared on a few prompts with what was trained (base model plus adapter, or full weights),
and asked a question. An adapter that was trained beside quantized weights is merged into those that
they were made from; how far that is from what was trained is measured and told, not judged.
"""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import RunConfig
from finetune_trainer.judging.questions import stop_tokens
from finetune_trainer.model import load_as_trained, load_model, load_tokenizer, load_trained
from finetune_trainer.same_model import ExportMismatchError, compare, logits, most, require_learnt
from finetune_trainer.smoke_test import QUESTIONS, question_ids, smoke_test
from finetune_trainer.weight_check import check_weights


def merge(
    config: RunConfig,
    workspace: Path,
    trained: Path,
    folder: Path,
    base: dict[str, Any],
    end_of_turn: int | None,
) -> dict[str, Any]:
    """Write the merged model to ``folder``; returns ``maxLogitDifference`` after reload,
    ``quantizationLogitDifference`` where weights were quantized, and ``smokeTest``: what the model
    said to a question."""
    tokenizer = load_tokenizer(workspace / "model")
    model = load_trained(workspace / "model", trained, adapter=config.method.lora is not None)
    prompts = [question_ids(tokenizer, text) for text in QUESTIONS]
    expected, untouched = logits(model, prompts), None
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            untouched = logits(model, prompts)
        model = model.merge_and_unload(safe_merge=True)
    dtype = getattr(torch, base["dtype"])
    _set_stop_tokens(model, workspace / "model", tokenizer, end_of_turn)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    gc.collect()

    check_weights(folder)
    reloaded = load_model(folder, torch.float32)
    again = logits(reloaded, prompts)
    difference = compare(expected, again, base["dtype"], "merged model")
    if untouched is not None:
        require_learnt(untouched, expected, again, "merged model")
    _check_tokenizer(folder, tokenizer, end_of_turn, reloaded)
    asked = smoke_test(reloaded, load_tokenizer(folder))
    found = {"maxLogitDifference": difference, "smokeTest": asked}
    if config.method.quantized:
        del reloaded
        gc.collect()
        quantized = logits(load_as_trained(workspace / "model", trained), prompts)
        found["quantizationLogitDifference"] = most(expected, quantized)
    return found


def _set_stop_tokens(
    model: PreTrainedModel, base: Path, tokenizer: Tokenizer, end_of_turn: int | None
) -> None:
    """The generation configuration stops where the training data did."""
    config = model.generation_config or GenerationConfig()  # type: ignore[no-untyped-call]
    with contextlib.suppress(OSError):
        config = GenerationConfig.from_pretrained(base)
    stops = stop_tokens(config, tokenizer, end_of_turn)
    config.eos_token_id = None if not stops else stops[0] if len(stops) == 1 else stops
    model.generation_config = config


def _check_tokenizer(
    folder: Path, tokenizer: Tokenizer, end_of_turn: int | None, model: PreTrainedModel
) -> None:
    saved = load_tokenizer(folder)
    if saved.chat_template != tokenizer.chat_template:
        raise ExportMismatchError("the exported tokenizer has another chat template")
    stops = model.generation_config.eos_token_id if model.generation_config else None
    stops = stops if isinstance(stops, list) else [stops]
    if end_of_turn == tokenizer.eos_token_id and end_of_turn not in stops:
        raise ExportMismatchError("the exported generation configuration lacks the stop token")
