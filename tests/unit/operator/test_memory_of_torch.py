"""What the plan says that torch saves for backward, and bitsandbytes stores, is what they do."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from finetune_operator.memory_ladder import Fit
from finetune_operator.memory_plan import Setup, Shape, activations
from finetune_trainer.config import Lora
from finetune_trainer.fast import accelerate
from finetune_trainer.model import lora_config
from finetune_trainer.prepare.shape import shape_of, shape_of_job

ONE = Fit(micro=1, accumulation=1, activation_checkpointing=False, zero_stage=0, world_size=1)


TINY = {
    "llama": LlamaConfig(
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=100,
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(
        n_embd=48,
        n_layer=4,
        n_head=6,
        vocab_size=100,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("llama", {}),
        ("llama", {"dropout": 0.1}),
        ("llama", {"dora": True}),
        ("gpt2", {}),
        ("gpt2", {"dropout": 0.1}),
    ],
)
def test_torch_saves_what_the_plan_says_of_adapters(name: str, variant: dict[str, Any]) -> None:
    """What they add to the frozen model's, within 5 %: magnitudes are left out."""
    lora = Lora(rank=8, **variant)
    model: Any = AutoModelForCausalLM.from_config(TINY[name], dtype=torch.float32)  # type: ignore[no-untyped-call]
    sizes = shape_of_job({"shape": shape_of(model), "parameters": 1}, lora)
    plain = {"chunked_loss": False, "by_sample": False}
    shape = Shape(parameters=1, **{_snake(key): value for key, value in sizes.items()} | plain)
    setup = Setup(
        "FP32",
        "CPU",
        row_tokens=64,
        row_targets=0,
        lora_rank=8,
        lora_dropout=lora.dropout > 0,
        dora=lora.dora,
    )
    saved = _saved_bytes(TINY[name], checkpointing=False, lora=lora)
    assert activations(shape, setup, ONE) == pytest.approx(saved, rel=0.05)


def test_the_trainer_measures_such_weights_as_bitsandbytes_stores_them() -> None:
    """The same model, as prepare tells it; its sizes against the library: test_quantization.py."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    lora = Lora(rank=16, quantization="NF4")
    found = shape_of_job({"shape": shape_of(model), "parameters": 134_515_008}, lora)
    assert found["quantized"] == 106_168_320
    assert found["quantizedBytes"] == 106_168_320 // 2 + 106_168_320 // 64 + 30 * 872 + 210 * 1092
    assert found["largestQuantized"] == 576 * 1536


@pytest.mark.parametrize("lora", [None, Lora(rank=8), Lora(rank=8, dropout=0.1)])
def test_torch_saves_what_the_plan_says_of_faster_forms(lora: Lora | None) -> None:
    """Within 5 %: attention without a mask, adapters in one piece with their layers."""
    model: Any = AutoModelForCausalLM.from_config(TINY["llama"], dtype=torch.float32)  # type: ignore[no-untyped-call]
    sizes = shape_of_job({"shape": shape_of(model), "parameters": 1}, lora)
    shape = Shape(
        parameters=1,
        **{_snake(key): value for key, value in sizes.items() if key != "trainable"},
        trainable=1,
    )
    assert shape.by_sample and shape.chunked_loss
    setup = Setup(
        "FP32",
        "CPU",
        row_tokens=64,
        row_targets=0,
        lora_rank=8 if lora else 0,
        lora_dropout=lora is not None and lora.dropout > 0,
    )
    saved = _saved_bytes(TINY["llama"], checkpointing=False, lora=lora, fast=True)
    assert activations(shape, setup, ONE) == pytest.approx(saved, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_torch_saves_what_the_plan_says(name: str, checkpointing: bool) -> None:
    """Within 2 %: statistics of norms and attention, and angles of positions, are left out."""
    saved = _saved_bytes(TINY[name], checkpointing)
    shape = Shape(
        parameters=1,
        trainable=1,
        largest=1,
        layers=4,
        hidden=48,
        attention=48,
        intermediate=112 if name == "llama" else 192,
        vocabulary=100,
        gated=name == "llama",
        rms_norm=name == "llama",
        stepwise_gelu=name == "gpt2",
    )
    setup = Setup("FP32", "CPU", row_tokens=64, row_targets=0)
    fit = replace(ONE, activation_checkpointing=checkpointing)
    assert activations(shape, setup, fit) == pytest.approx(
        saved, rel=0.1 if checkpointing else 0.02
    )


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _saved_bytes(
    config: PretrainedConfig, checkpointing: bool, lora: Lora | None = None, *, fast: bool = False
) -> int:
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if lora:
        model = get_peft_model(model, lora_config(lora))
    if fast:
        accelerate(model, stage=2, on_gpu=False)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()  # DoRA's norms have a graph that nobody keeps

    def keep(tensor: torch.Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.add(holder)
        return holder

    positions = torch.arange(32).repeat(2)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
        output = model(input_ids=positions, position_ids=positions, use_cache=False)
    gc.collect()
    found = {storage.data_ptr(): storage.nbytes() for storage in (k.storage for k in kept)}
    assert output.logits.requires_grad
    return sum(size for pointer, size in found.items() if pointer not in own)


class _Kept:
    """A tensor that a graph saved, for as long as there is the graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.storage = tensor, tensor.untyped_storage()
