"""The faster forms on a GPU compute what the plain ones do, as closely as 16 bits allow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from finetune_trainer.batches import IGNORE, Batch
from finetune_trainer.fast import accelerate, attention, fused
from finetune_trainer.fast.head import head_of
from finetune_trainer.loss import loss_sum

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"head_dim": 16, "sliding_window": None}),
    "window": ("MistralConfig", {"head_dim": 16, "sliding_window": 24}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "smollm3": ("SmolLM3Config", {"pad_token_id": 0}),
    "olmo2": ("Olmo2Config", {"num_key_value_heads": 8}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
}
ROWS = [[3, 61, 64], [120, 8]]
"""Tokens of the samples of two packed rows."""


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """What the forms put in place of functions of transformers goes away again."""
    import sys

    before = {
        name: module.apply_rotary_pos_emb
        for name, module in list(sys.modules.items())
        if name.startswith("transformers.models.") and hasattr(module, "apply_rotary_pos_emb")
    }
    yield
    for name, plain in before.items():
        vars(sys.modules[name])["apply_rotary_pos_emb"] = plain


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    kind, more = CONFIGS[name]
    config = getattr(transformers, kind)(**SIZES | more)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for weight in model.parameters():  # so that layers matter beside the residual stream
        weight.data = (
            weight.data * 4
            if weight.dim() > 1
            else weight.data + 0.1 * torch.randn_like(weight.data)
        )
    return model.train().cuda()


def batch_of(rows: list[list[int]]) -> Batch:
    length = max(map(sum, rows))
    torch.manual_seed(1)
    ids = torch.randint(1, 512, (len(rows), length))
    labels = torch.full_like(ids, IGNORE)
    positions = torch.zeros_like(ids)
    for row, samples in enumerate(rows):
        at = 0
        for size in [*samples, *([length - sum(samples)] if sum(samples) < length else [])]:
            positions[row, at : at + size] = torch.arange(size)
            if at < sum(samples):
                labels[row, at + 1 : at + size] = ids[row, at + 1 : at + size]
            at += size
    return Batch(ids, positions, labels).to(torch.device("cuda"))


def told(model: Any, batch: Batch, *, head: bool) -> tuple[float, torch.Tensor]:
    """Loss by target, and all gradients in one vector."""
    model.zero_grad()
    found = head_of(model) if head else None
    summed = loss_sum(model, batch, logits_to_keep=True, head=found)
    count = int((batch.labels != IGNORE).sum())
    (summed / count).backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return float(summed) / count, torch.cat(gradients)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_faster_forms_are_as_close_to_fp32_as_the_plain_ones(
    name: str, dtype: torch.dtype
) -> None:
    batch = batch_of(ROWS)
    exact_model = model_of(name)
    exact = told(exact_model, batch, head=False)
    plain_model = copy.deepcopy(exact_model).to(dtype)
    fast_model = copy.deepcopy(exact_model).to(dtype)
    plain = told(plain_model, batch, head=False)
    accelerate(fast_model, stage=2, on_gpu=True)
    assert fast_model.config._attn_implementation == attention.ON_GPU
    used = [type(each) for each in fast_model.modules()]
    assert (fused.FusedNorm in used) == (fast_model.config.model_type in fused.PROVED)
    fast = told(fast_model, batch, head=True)
    assert fast[0] == pytest.approx(exact[0], rel=max(2e-3, 2 * abs(plain[0] / exact[0] - 1)))
    assert distance(fast[1], exact[1]) < 1.25 * distance(plain[1], exact[1]) + 1e-3
    assert distance(fast[1], plain[1]) > 0, "it did compute in another way"


@pytest.mark.parametrize("name", CONFIGS)
def test_trap_s01_samples_of_two_packed_rows_do_not_see_each_other(name: str) -> None:
    """One sample's losses in a packed micro-batch of two rows are those that it has alone."""
    model = model_of(name).to(torch.bfloat16)
    accelerate(model, stage=2, on_gpu=True)
    batch = batch_of(ROWS)
    with torch.no_grad():
        packed = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits.float()
        for row, samples in enumerate(ROWS):
            at = 0
            for size in samples:
                part = slice(at, at + size)
                alone = model(
                    input_ids=batch.input_ids[row : row + 1, part],
                    position_ids=batch.position_ids[row : row + 1, part],
                    use_cache=False,
                ).logits.float()
                assert distance(packed[row, part], alone[0]) < 0.01
                at += size
        leaking = model(
            input_ids=batch.input_ids,
            position_ids=torch.arange(128, device="cuda").expand(2, 128),
            use_cache=False,
        ).logits.float()
    assert distance(leaking[0, 3:64], packed[0, 3:64]) > 0.05, "rows as one sample differ"


def test_the_gradient_of_a_trained_head_in_16_bits_is_rounded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finetune_trainer.fast import head as heads

    batch = batch_of(ROWS)
    exact_model = model_of("llama")
    _, exact = told(exact_model, batch, head=False)
    model = copy.deepcopy(exact_model).to(torch.bfloat16)
    _, plain = told(copy.deepcopy(model), batch, head=False)
    monkeypatch.setitem(heads.CHUNK_BYTES, "cuda", 512 * 7 * 2)
    _, chunked = told(model, batch, head=True)
    assert distance(chunked, exact) < 1.1 * distance(plain, exact)
