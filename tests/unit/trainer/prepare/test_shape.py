"""The sizes that prepare reports, against the model and against PEFT itself."""

from __future__ import annotations

from typing import Any

import pytest
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from finetune_trainer.config import Lora
from finetune_trainer.model import lora_config
from finetune_trainer.prepare.shape import shape_of, shape_of_job

LLAMA = LlamaConfig(
    hidden_size=48,
    intermediate_size=112,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=100,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(n_embd=48, n_layer=4, n_head=6, vocab_size=100, bos_token_id=0, eos_token_id=0)


@pytest.mark.parametrize(
    ("config", "names", "dora"),
    [
        (LLAMA, "AllLinear", False),
        (LLAMA, ("q_proj", "self_attn.v_proj"), False),
        (LLAMA, "AllLinear", True),
        (GPT2, "AllLinear", False),
        (GPT2, ("c_attn",), True),
    ],
)
def test_what_an_adapter_trains(config: PretrainedConfig, names: Any, dora: bool) -> None:
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    lora = Lora(rank=8, target_modules=names, dora=dora)
    found = shape_of_job({"shape": shape_of(model), "parameters": 1}, lora)
    adapted = get_peft_model(model, lora_config(lora))
    trained = [weight.numel() for weight in adapted.parameters() if weight.requires_grad]
    assert (found["trainable"], found["largest"]) == (sum(trained), max(trained))
    assert found["adapters"] == len(trained) // (3 if dora else 2)
    outputs = [w.shape[0] for name, w in adapted.named_parameters() if "lora_B" in name]
    assert found["adapterOutputs"] == sum(outputs)
    assert "linear" not in found


def test_the_families_are_told_apart() -> None:
    told = {}
    for config in (LLAMA, GPT2):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        shape = shape_of_job({"shape": shape_of(model), "parameters": 7}, None)
        assert shape["trainable"] == 7
        told[config.model_type] = [
            shape[key]
            for key in (
                *("gated", "rmsNorm", "stepwiseGelu", "attention", "intermediate"),
                *("chunkedLoss", "bySample"),
            )
        ]
    assert told == {
        "llama": [True, True, False, 48, 112, True, True],
        "gpt2": [False, False, True, 48, 192, True, False],
    }
