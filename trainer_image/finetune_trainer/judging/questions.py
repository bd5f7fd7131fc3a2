"""What a job asks its model, and how: opened once, the same on every rank and in every attempt."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import Generation, RunConfig
from finetune_trainer.judging.decode import Answer, Decoding
from finetune_trainer.judging.prompts import Prompt, read_prompts
from finetune_trainer.model import load_tokenizer
from finetune_trainer.prepare import manifest as manifests


@dataclass(frozen=True)
class Questions:
    wish: Generation
    prompts: list[Prompt]
    tokenizer: Tokenizer
    how: Decoding
    folder: Path
    """Of the base model's answers: that of all attempts, because only the first one asks it."""

    def text(self, answer: Answer) -> str:
        return str(self.tokenizer.decode(list(answer.ids), skip_special_tokens=True)).strip()


def open_questions(config: RunConfig, workspace: Path, model: Any) -> Questions | None:
    """None where the job wants no answers. ``model`` says where it stops if its folder does not.

    Raises ``BadData`` where there is no prompt.
    """
    wish = config.evaluation.generation
    if wish is None:
        return None
    facts = manifests.read_manifest(workspace / "model")
    data = manifests.read_manifest(workspace / "data")
    tokenizer = load_tokenizer(workspace / "model")
    own = model.generation_config
    with contextlib.suppress(OSError):
        own = GenerationConfig.from_pretrained(workspace / "model")
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return Questions(
        wish,
        read_prompts(workspace / "data" / "eval", wish, facts.get("contextLength")),
        tokenizer,
        Decoding(
            stops=frozenset(stop_tokens(own, tokenizer, data.get("endOfTurn"))),
            pad=next(int(i) for i in pads if isinstance(i, int)),
            max_new_tokens=wish.max_new_tokens,
            batch_tokens=config.training.micro_batch_size * config.data.sequence_length,
        ),
        workspace / "answers",
    )


def stop_tokens(
    config: GenerationConfig | None, tokenizer: Tokenizer, end_of_turn: int | None
) -> list[int]:
    """Tokens at which generation ends: the model's own, and the one that the training data taught
    it to end answers with."""
    known = config.eos_token_id if config and config.eos_token_id is not None else None
    known = tokenizer.eos_token_id if known is None else known
    stops = [] if known is None else list(known) if isinstance(known, list) else [known]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if end_of_turn in special and end_of_turn not in stops:
        stops.append(end_of_turn)
    return stops
