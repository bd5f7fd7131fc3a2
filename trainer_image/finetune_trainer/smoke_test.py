"""One question to the model as it is published: a last look before anybody serves it."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.errors import StageError
from finetune_trainer.model import REFUSALS, prompt_ids

QUESTIONS = (
    "What can you help me with?",
    "Explain in one sentence what a checkpoint is.",
    "List three colours.",
)
MAX_NEW_TOKENS = 24
_MAX_CHARACTERS = 160


class CannotAnswer(StageError):  # noqa: N818 - says what is wrong
    """The exported model was loaded and fails to generate."""


def question_ids(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """int64 [1, T]: a user's message as in training, or the bare text if the template refuses."""
    try:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": text}])
    except REFUSALS:
        ids = list(tokenizer.encode(text))
    return torch.tensor([ids])


def smoke_test(model: PreTrainedModel | PeftModel, tokenizer: Tokenizer) -> dict[str, Any]:
    """``prompt``, ``answer`` (cut after 160 characters) and ``tokens`` that were generated.

    The likeliest tokens, with the stop tokens of the model's own generation configuration. An empty
    answer is one: the model stopped at once. Raises ``CannotAnswer``.
    """
    ids = question_ids(tokenizer, QUESTIONS[0])
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    try:
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=next(each for each in candidates if each is not None),
            )
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise CannotAnswer(
            f"the exported model was loaded and cannot answer: {type(error).__name__}: {error}",
            "the trained weights stay in the attempt's folder; report this as a bug",
        ) from error
    new = output[0, ids.shape[1] :]
    text = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
    cut = text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
    return {"prompt": QUESTIONS[0], "answer": cut, "tokens": len(new)}
