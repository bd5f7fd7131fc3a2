"""What is written as GGUF is the same model to llama.cpp: probabilities, tokens, prompts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures.cells import SIZES
from gguf_judge import llama_cpp
from tiny_models import GENERATION, SPECIAL, make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from finetune_trainer.config import GgufType
from finetune_trainer.gguf_export.architectures import ARCHITECTURES
from finetune_trainer.gguf_export.pretokenizers import PRE_TOKENIZERS
from finetune_trainer.gguf_export.proof import TEXTS, check_tokenizer
from finetune_trainer.gguf_export.write import About, write_gguf
from finetune_trainer.model import load_model, load_tokenizer

ABOUT = About(name="tiny", base_model="random")
WIDE = SIZES | {"hidden_size": 64, "max_position_embeddings": 512}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", WIDE),
    "llama with an output layer of its own": ("LlamaConfig", WIDE | {"tie_word_embeddings": False}),
    "llama with the embedding as output layer": (
        "LlamaConfig",
        WIDE | {"tie_word_embeddings": True},
    ),
    "llama with scaled positions": ("LlamaConfig", WIDE | {"rope_parameters": LLAMA3}),
    "llama with heads of another size": ("LlamaConfig", WIDE | {"head_dim": 32}),
    "mistral": ("MistralConfig", WIDE | {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", WIDE),
    "qwen3": ("Qwen3Config", WIDE | {"head_dim": 32}),
}
IDS = list(range(1, 100))
BOUNDS: dict[GgufType, float] = {"F32": 1e-3, "F16": 0.15, "BF16": 1.0, "Q8_0": 3.0}
"""In nats; the weights are large, so that little goes unseen."""


def save(name: str, folder: Path) -> Path:
    """A model whose every weight matters: norms are no ones, and biases no zeros."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    kind, sizes = CELLS[name]
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer) + 3,  # rows that no token has
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim > 1 else 0.5
            weight.copy_(spread * torch.randn_like(weight) + ("norm" in name))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_architecture_of_the_table_is_judged() -> None:
    assert {name.split()[0] for name in CELLS} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", CELLS)
def test_it_says_the_same_as_transformers(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / "model")
    tokenizer, model = load_tokenizer(folder), load_model(folder, torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    for kind, bound in BOUNDS.items():
        file = tmp_path / f"{kind}.gguf"
        write_gguf(folder, file, kind, tokenizer, [tokenizer.eos_token_id], ABOUT)
        with llama_cpp(file) as judge:
            found = torch.tensor(judge.log_probabilities(IDS, len(expected)))
        assert float((found - expected).abs().max()) < bound, kind


def random_texts() -> list[str]:
    """Letters, numbers, marks and white space in any order, in the normal form C."""
    dice = random.Random(0)
    pool = "".join(TEXTS) + "'’'s'LL'Re0123456789aAbBéÉñÑßΩωЖж中日한①½²٣"
    pool += '.,!?;:-_()[]{}<>/\\|@#$%^&*+=~`" \n\t\r\u00a0\u2003\u200b\u200d\u3000\u0301'
    made = ("".join(dice.choice(pool) for _ in range(40)) for _ in range(300))
    return [unicodedata.normalize("NFC", text) for text in made]


@pytest.mark.parametrize("rule", PRE_TOKENIZERS, ids=lambda rule: rule.name)
def test_it_makes_the_same_tokens_and_prompts(rule: Any, tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE(ignore_merges=rule.ignore_merges))
    content = json.loads(backend.to_str()) | {"pre_tokenizer": rule.json}
    backend = Tokenizer.from_str(json.dumps(content))
    backend.decoder = decoders.ByteLevel()
    if rule.name == "qwen2":
        backend.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([Path(__file__).read_text(), *TEXTS * 20, "2024 ³² ½ ٣٤٥"], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        additional_special_tokens=[token for token in SPECIAL if token != "<|im_end|>"],
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = GENERATION
    folder, file = tmp_path / "model", tmp_path / "m.gguf"
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        **SIZES | {"num_hidden_layers": 1},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    write_gguf(folder, file, "F32", tokenizer, [tokenizer.eos_token_id], ABOUT)
    check_tokenizer(file, tokenizer, TEXTS)
    messages = [
        {"role": "user", "content": " Hi <think> 12 "},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "x"},
    ]
    with llama_cpp(file) as judge:
        for text in (*TEXTS, *random_texts(), "<|im_start|>a <think><|im_end|>\n"):
            assert judge.tokenize(text) == tokenizer.encode(text, add_special_tokens=False), text
        assert judge.prompt(messages) == tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )


@pytest.mark.parametrize("bos", [None, "<s>"])
def test_it_puts_the_same_token_in_front(bos: str | None, tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(bos=bos), tmp_path / "m.gguf"
    write_smallest(tokenizer, file)
    with llama_cpp(file) as judge:
        assert judge.tokenize("A gang.", special=True) == tokenizer.encode("A gang.")


def test_it_ends_however_little_it_was_asked(tmp_path: Path) -> None:
    """It waits for itself for ever where it is ended too early: on one core after three at most."""
    write_smallest(make_tokenizer(), tmp_path / "m.gguf")
    begin_and_end = (
        "import os, pathlib, sys\n"
        "from gguf_judge import llama_cpp\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "for _ in range(30):\n"
        "    with llama_cpp(pathlib.Path(sys.argv[1])):\n"
        "        pass\n"
    )
    subprocess.run(
        [sys.executable, "-c", begin_and_end, str(tmp_path / "m.gguf")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=60,
        check=True,
    )


def write_smallest(tokenizer: Any, file: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES)
    folder = file.with_name("model")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    write_gguf(folder, file, "F16", tokenizer, [tokenizer.eos_token_id], ABOUT)
