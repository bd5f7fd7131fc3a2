"""Attention sample by sample equals attention under the mask of the whole row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures.cells import ARCHITECTURES
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.batches import Batch
from finetune_trainer.fast import attention
from finetune_trainer.loss import loss_sum

ROWS = [[17, 1, 9, 13], [40], [2, 30, 8]]
"""Lengths of samples, packed into rows of 40 tokens."""


def batch(rows: list[list[int]], seed: int = 0) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (len(rows), sum(rows[0])), generator=drawn)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    return Batch(ids, positions, torch.where(positions > 0, ids, -100))


def model(name: str) -> Any:
    import transformers

    torch.manual_seed(0)
    kind, sizes = ARCHITECTURES[name]
    config = getattr(transformers, kind)(vocab_size=64, **sizes | {"pad_token_id": 0})
    return transformers.AutoModelForCausalLM.from_config(config)


def learnt(model: Any, what: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    torch.manual_seed(2)  # of dropout, which some configurations have
    loss = loss_sum(model, what, logits_to_keep=True)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=2e-5, msg=name)


FITTING = [name for name in ARCHITECTURES if name not in ("Gemma2", "GPT2")]


@pytest.mark.parametrize("name", FITTING)
def test_loss_and_gradients_are_those_of_sdpa(name: str) -> None:
    """Mistral and Gemma3 have windows shorter than the longest samples."""
    each, packed = model(name), batch(ROWS)
    loss, gradients = learnt(each, packed)
    assert attention.attach(each)
    again, found = learnt(each, packed)
    assert again == pytest.approx(loss, rel=1e-6)
    same(found, gradients)


@pytest.mark.parametrize("name", ["Gemma2", "GPT2"])
def test_other_architectures_stay_as_they_are(name: str) -> None:
    each = model(name)
    before = each.config._attn_implementation
    assert not attention.attach(each)
    assert each.config._attn_implementation == before


def test_no_mask_of_a_packed_row_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    each = tiny_llama()
    assert attention.attach(each)
    masks: list[Any] = []
    made = attention.sdpa_mask
    monkeypatch.setattr(attention, "sdpa_mask", lambda *a, **k: masks.append(made(*a, **k)))
    seen: list[tuple[int, ...]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        assert more["attn_mask"] is None
        seen.append(tuple(query.shape))
        return kernel(query, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    learnt(each, batch(ROWS[:1]))
    assert masks == []
    assert [shape[2] for shape in seen] == ROWS[0] * 2, "in each of two layers"


def test_a_window_is_a_mask_of_the_sample_alone() -> None:
    from transformers.masking_utils import and_masks, sliding_window_causal_mask_function
    from transformers.masking_utils import packed_sequence_mask_function as apart

    of_sample = torch.repeat_interleave(torch.arange(3), torch.tensor([6, 3, 7]))[None]
    function = and_masks(apart(of_sample), sliding_window_causal_mask_function(4))
    found = attention.blocks(1, 16, 16, mask_function=function, allow_is_causal_skip=False)
    assert isinstance(found, attention.Blocks)
    (row,) = found.rows
    assert [size for size, _ in row] == [6, 3, 7]
    assert [mask is None for _, mask in row] == [False, True, False]
    dense = found.dense()
    assert dense is not None
    at = 0
    whole = torch.zeros(16, 16, dtype=torch.bool)
    for size, mask in row:
        part = slice(at, at + size)
        whole[part, part] = torch.ones(size, size).tril().bool() if mask is None else mask
        at += size
    assert torch.equal(whole, dense[0, 0])


def test_generation_and_padding_masks_are_left_to_sdpa() -> None:
    prompt = torch.randint(1, 64, (2, 7))
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    answers = []
    for attached in (False, True):
        each = tiny_llama().eval()
        assert attention.attach(each) if attached else True
        answers.append(each.generate(prompt, attention_mask=mask, max_new_tokens=5, pad_token_id=0))
    assert torch.equal(*answers)


def test_dropout_in_attention_stays_within_samples() -> None:
    each = tiny_llama(attention_dropout=0.5)
    assert attention.attach(each)
    one, other = batch([[5, 11]]), batch([[5, 11]], seed=1)
    other.input_ids[:, 5:] = one.input_ids[:, 5:]
    hidden = []
    for what in (one, other):
        torch.manual_seed(3)
        each.train()
        hidden.append(each.model(input_ids=what.input_ids, position_ids=what.position_ids,
                                 use_cache=False).last_hidden_state)  # fmt: skip
    assert torch.allclose(hidden[0][:, 5:], hidden[1][:, 5:])
    assert not torch.allclose(hidden[0][:, :5], hidden[1][:, :5])


def test_what_is_saved_does_not_name_it(tmp_path: Any) -> None:
    each = tiny_llama()
    assert attention.attach(each)
    each.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
