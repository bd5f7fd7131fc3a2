"""Where fused kernels are attached, and that a place without a compiler does without them."""

from __future__ import annotations

import logging

import pytest
import torch
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.fast import fused, kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can compile")
def test_where_no_kernel_can_be_compiled_the_plain_forms_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_llama()
    before = [type(layer) for layer in model.modules()]
    kernels.can_compile.cache_clear()
    with caplog.at_level(logging.WARNING, "finetune_trainer.fast.kernels"):
        assert fused.attach(model) == 0
    assert [type(layer) for layer in model.modules()] == before
    assert "kernels cannot be compiled, so training is slower: " in caplog.text


def test_norms_and_gates_are_taken_and_weights_keep_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers.models.llama.modeling_llama as modelling

    monkeypatch.setattr(fused, "can_compile", lambda: True)
    monkeypatch.setattr(modelling, "apply_rotary_pos_emb", modelling.apply_rotary_pos_emb)
    model = tiny_llama()
    names = list(model.state_dict())
    layers = model.config.num_hidden_layers
    assert fused.attach(model) == (2 * layers + 1) + layers
    assert list(model.state_dict()) == names
    rotated = modelling.apply_rotary_pos_emb(*torch.ones(2, 1, 2, 3, 8), *torch.ones(2, 1, 3, 8))
    assert rotated[0].shape == (1, 2, 3, 8), "off a GPU the plain rotation stays"


def test_other_architectures_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "can_compile", lambda: True)
    model = tiny_llama()
    model.config.model_type = "gemma"  # whose norms have an offset
    before = [type(layer) for layer in model.modules()]
    assert fused.attach(model) == 0
    assert [type(layer) for layer in model.modules()] == before
