"""Answers in one padded batch are those of plain transformers to each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from architectures.cells import ARCHITECTURES
from unit.trainer.self_test.test_packing import Unsharded

from finetune_trainer.judging.decode import Decoding, Signals, decode
from finetune_trainer.loss import accepts_logits_to_keep
from finetune_trainer.rendezvous import Place

NEW = 20
PROMPTS = [[5, 6, 7], [*range(9, 30)], [30, 31], [40] * 15]
"""Windows of 12 tokens end within the longest one, and within the answers to the others."""


class Alone:
    """A gang of one."""

    place = Place(0, 0, 1, "localhost", 1)

    def sums(self, *values: float) -> list[float]:
        return list(values)

    def gather(self, mine: Any) -> list[Any]:
        return [mine]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_changes_no_answer(name: str) -> None:
    torch.manual_seed(0)
    kind, sizes = ARCHITECTURES[name]
    config = getattr(transformers, kind)(vocab_size=64, bos_token_id=None, eos_token_id=1, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data *= 3 if weight.dim() > 1 else 1  # else every answer is one token over and over
    engine: Any = Unsharded(model)
    engine.stage = 0
    gang: Any = Alone()
    found = decode(
        engine,
        gang,
        PROMPTS,
        Decoding(frozenset(), pad=0, max_new_tokens=NEW, batch_tokens=10_000),
        logits_to_keep=accepts_logits_to_keep(model),
        signals=Signals(),
    )
    assert found is not None
    model.eval()
    for prompt, answer in zip(PROMPTS, found, strict=True):
        alone = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(answer.ids) == alone[0, len(prompt) :].tolist()
