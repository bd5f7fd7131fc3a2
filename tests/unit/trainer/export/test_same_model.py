"""Rounding to 16 bits is let pass; an adapter that got lost under it is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import get_peft_model
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.config import Lora
from finetune_trainer.model import lora_config
from finetune_trainer.same_model import ExportMismatchError, compare, logits, require_learnt

Logits = list[torch.Tensor]
PROMPTS = [torch.arange(5, 45)[None], torch.arange(50, 20, -1)[None]]


def rounded(model: Any) -> Logits:
    return logits(copy.deepcopy(model).to(torch.float16).float(), PROMPTS)


def learnt(size: float) -> tuple[Logits, Logits, Logits, Logits]:
    """Logits of the base, of the trained model, of the merged one and of one without its adapter,
    both of 16 bits. ``size``: of what was trained."""
    torch.manual_seed(0)
    base = tiny_llama().eval()
    model: Any = get_peft_model(copy.deepcopy(base), lora_config(Lora(rank=4))).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=size)
    expected = logits(model, PROMPTS)
    merged = model.merge_and_unload(safe_merge=True)
    return logits(base, PROMPTS), expected, rounded(merged), rounded(base)


def test_what_little_training_changed_must_be_in_the_result() -> None:
    base, expected, merged, without = learnt(0.001)
    compare(expected, merged, "float16", "merged model")
    compare(expected, without, "float16", "merged model")  # differs by less than rounding may
    require_learnt(base, expected, merged, "merged model")
    with pytest.raises(ExportMismatchError, match=r"the merged model has -?\d+% of what the"):
        require_learnt(base, expected, without, "merged model")
    with pytest.raises(ExportMismatchError):
        require_learnt(base, expected, [each * float("nan") for each in merged], "merged model")


@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_a_training_that_rounding_hides_is_no_fault(size: float) -> None:
    base, expected, merged, without = learnt(size)
    require_learnt(base, expected, merged, "merged model")
    require_learnt(base, expected, without, "merged model")
