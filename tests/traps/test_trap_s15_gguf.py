"""A GGUF file is unpacked once: what training loads is a model like any other."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from finetune_trainer.config import ModelSource
from finetune_trainer.gguf_export.write import About, write_gguf
from finetune_trainer.model import load_model, load_tokenizer
from finetune_trainer.prepare.model import prepare_model


def test_trap_s15_a_gguf_model_is_trained_and_saved_like_any_other(tmp_path: Path) -> None:
    origin = save_tiny_model(tmp_path / "origin", tied=False)
    packed = tmp_path / "source/model.gguf"
    packed.parent.mkdir()
    stops = [load_tokenizer(origin).eos_token_id]
    write_gguf(origin, packed, "Q8_0", load_tokenizer(origin), stops, About("bot", "origin"))
    prepare_model(ModelSource(path=str(packed)), tmp_path)

    model = load_model(tmp_path / "model", torch.float32).float()
    assert not getattr(model, "is_quantized", False)
    assert all(w.requires_grad and w.dtype == torch.float32 for w in model.parameters())
    expected = AutoModelForCausalLM.from_pretrained(origin, dtype=torch.float32)
    ids = torch.arange(1, 30)[None]
    assert (model(ids).logits - expected(ids).logits).abs().max() < 0.2, "rounded to 8 bits"
    model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    model.save_pretrained(tmp_path / "trained")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert torch.equal(again(ids).logits, model(ids).logits)
