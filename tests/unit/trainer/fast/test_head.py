"""The loss without all logits equals the plain one: loss, gradients, hits, memory."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures.cells import ARCHITECTURES
from unit.trainer.fast.test_attention import ROWS, batch, learnt, model, same
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.fast import head as heads
from finetune_trainer.fast.head import head_of
from finetune_trainer.loss import loss_sum, losses_and_hits

FITTING = [name for name in ARCHITECTURES if name not in ("Gemma2", "Gemma3")]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CHUNK_BYTES, "cpu", 64 * 7 * 4)


@pytest.mark.parametrize("name", FITTING)
def test_loss_and_gradients_are_the_plain_ones(name: str) -> None:
    each, packed = model(name), batch(ROWS)
    loss, gradients = learnt(each, packed)
    head = head_of(each)
    assert head is not None and head.usable
    each.zero_grad()
    torch.manual_seed(2)
    again = loss_sum(each, packed, logits_to_keep=True, head=head)
    (again * 0.5).backward()
    assert again.item() == pytest.approx(loss, rel=1e-6)
    same({name: p.grad * 2 for name, p in each.named_parameters()}, gradients)


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3"])
def test_models_that_change_their_logits_are_left_alone(name: str) -> None:
    assert head_of(model(name)) is None


def test_hits_and_loss_without_a_gradient() -> None:
    each, packed = tiny_llama().eval(), batch(ROWS)
    head = head_of(each)
    with torch.no_grad():
        losses, hits = losses_and_hits(each, packed, logits_to_keep=True)
        told = losses_and_hits(each, packed, logits_to_keep=True, head=head)
        assert told[0] == pytest.approx(losses, rel=1e-6)
        assert told[1] == hits
        summed = loss_sum(each, packed, logits_to_keep=True, head=head)
        assert float(summed) == pytest.approx(sum(losses), rel=1e-6)


def test_logits_of_a_chunk_are_the_most_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    each, packed = tiny_llama(), batch(ROWS)
    sizes: list[int] = []
    times = heads.times

    def watched(x: torch.Tensor, other: torch.Tensor, **rest: bool) -> torch.Tensor:
        if other is each.lm_head.weight:
            sizes.append(len(x))
        return times(x, other, **rest)

    monkeypatch.setattr(heads, "times", watched)
    loss_sum(each, packed, logits_to_keep=True, head=head_of(each)).backward()
    targets = int((packed.position_ids > 0).sum())
    assert max(sizes) == 7
    assert sum(sizes) == targets


def test_a_batch_without_targets_loses_zero_with_a_gradient_of_zero() -> None:
    each, packed = tiny_llama(), batch(ROWS)
    packed.labels[:] = -100
    loss = loss_sum(each, packed, logits_to_keep=True, head=head_of(each))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in each.parameters())


def test_hooks_on_the_layer_switch_it_off() -> None:
    each = tiny_llama()
    head = head_of(each)
    assert head is not None and head.usable
    with each.lm_head.register_forward_hook(lambda *_: None):
        assert not head.usable
    assert head.usable


def test_a_trained_head_of_16_bits_is_rounded_once_and_not_chunk_by_chunk() -> None:
    each, packed = tiny_llama(), batch(ROWS)
    _, exact = learnt(each, packed)
    rounded = copy.deepcopy(each).to(torch.bfloat16)
    _, plain = learnt(rounded, packed)
    rounded.zero_grad()
    loss_sum(rounded, packed, logits_to_keep=True, head=head_of(rounded)).backward()
    name = "lm_head.weight" if "lm_head.weight" in exact else "model.embed_tokens.weight"
    chunked = dict(rounded.named_parameters())[name].grad

    def off(found: torch.Tensor) -> float:
        return float((found.float() - exact[name]).norm() / exact[name].norm())

    assert chunked is not None and chunked.dtype == torch.bfloat16
    assert off(chunked) < 1.05 * off(plain[name])


def test_a_layer_with_an_adapter_is_left_alone() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["lm_head"]))
    assert head_of(adapted) is None
    assert head_of(get_peft_model(tiny_llama(), LoraConfig(r=2))) is not None


def test_the_model_has_its_layer_back_after_an_error() -> None:
    each = tiny_llama()
    head = head_of(each)
    assert head is not None
    with pytest.raises(RuntimeError), head.left_out():
        raise RuntimeError
    assert each.lm_head(torch.zeros(1, 32)).shape == (1, 64)
