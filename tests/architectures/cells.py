"""The architectures that the trainer is proved with: tiny, with random weights, of their own kind.

A cell goes the whole way in one process: prepare, self-test, a few steps, save, export, and the
published files again in plain transformers and PEFT.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from tiny_models import make_tokenizer
from unit.trainer.train.jobs import joined
from unit.trainer.train.loops import NeverStop, recorder

from finetune_trainer import export, session
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.gguf_export.proof import load_gguf
from finetune_trainer.loop import Loop
from finetune_trainer.prepare import stage
from finetune_trainer.rendezvous import Place
from finetune_trainer.self_test import self_test
from finetune_trainer.weights import save_weights

STEPS = 3
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ALL_HEADS = SIZES | {"num_key_value_heads": 4}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SIZES),
    "Qwen2": ("Qwen2Config", SIZES),
    "Qwen3": ("Qwen3Config", SIZES | {"head_dim": 8}),
    "Mistral": ("MistralConfig", SIZES | {"head_dim": 8, "sliding_window": 12}),
    "Gemma": ("GemmaConfig", SIZES | {"head_dim": 8}),
    "Gemma2": ("Gemma2Config", SIZES | {"head_dim": 8, "sliding_window": 12}),
    "Gemma3": ("Gemma3TextConfig", SIZES | {"head_dim": 8, "sliding_window": 12}),
    "Phi": ("PhiConfig", ALL_HEADS),
    "Phi3": ("Phi3Config", SIZES | {"pad_token_id": 0}),
    "GPT2": ("GPT2Config", GPT2_SIZES),
    "OLMo": ("OlmoConfig", ALL_HEADS),
    "OLMo2": ("Olmo2Config", ALL_HEADS),
    "SmolLM3": ("SmolLM3Config", SIZES | {"pad_token_id": 0}),
}
"""Name: configuration class of transformers, and its sizes."""
FULL = ("Qwen3", "Gemma2", "Phi", "GPT2")
"""Trained whole as well: norms of heads, soft caps, biases, learnt positions and fused layers."""
GGUF = ("Llama", "Qwen2", "Qwen3")
"""Published as GGUF, too. Mistral's window is refused; without it see test_llama_cpp.py."""
CELLS = [(name, "lora") for name in ARCHITECTURES] + [(name, "full") for name in FULL]


def save_model(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    kind, sizes = ARCHITECTURES[name]
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer) + 8,  # classes of tokenizers bring tokens of their own
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"A gang of {n}."},
            ]
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(name: str, model: Path, rows: Path, method: str) -> RunConfig:
    formats = ["Adapter", "Merged", *(["GGUF"] if name in GGUF else [])]
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "matrix", "uid": "u1"},
            "model": {"path": str(model)},
            "data": {
                "train": [{"name": "rows", "field": "spec.data.train[0]", "path": str(rows)}],
                "sequenceLength": 96,
                "evalFraction": 0,
            },
            "method": {"lora": {"rank": 4, "alpha": 8}} if method == "lora" else {},
            "training": {
                "steps": STEPS,
                "microBatchSize": 2,
                "accumulation": 1,
                "learningRate": 0.02,
                "activationCheckpointing": method == "full",
            },
            "output": {"formats": formats, "ggufType": "F32"},
            "zeroStage": 2,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
        }
    )


def run_cells(place: Place, root: Path) -> dict[str, dict[str, Any]]:
    """Every cell in turn; what failed brings its error home."""
    gang = joined(place)
    rows = write_rows(root / "rows.jsonl")
    results: dict[str, dict[str, Any]] = {}
    for name, method in CELLS:
        try:
            told = _run(name, method, rows, root / f"{name}-{method}", gang, place)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        results[f"{name}-{method}"] = told
    return results


def _run(
    name: str, method: str, rows: Path, folder: Path, gang: Any, place: Place
) -> dict[str, Any]:
    config = config_of(name, save_model(name, folder / "source"), rows, method)
    workspace, attempt = folder / "ws", folder / "ws/attempts/0"
    prepared = stage.run(config, workspace)
    engine = session.build_engine(config, workspace / "model", "FP32")
    train_rows = session.open_rows(workspace / "data" / "train")
    reporter = recorder(place, attempt)
    self_test(engine, gang, train_rows, reporter, workspace=workspace, isolated=True, step=0)
    loop = Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows,
        scored_rows=(),
        checkpoints=Checkpoints(workspace, 0, gang, keep=1, identity={}),
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=reporter,
    )
    loop.run()
    save_weights(engine, gang, attempt)
    told = export.run(config, workspace, folder / "out", 0)
    probe = torch.arange(1, 25)[None]
    load: Callable[..., Any] = transformers.AutoModelForCausalLM.from_pretrained
    expected = logits(engine.module, probe)
    published = {"merged": load(folder / "out/merged", dtype=torch.float32)}
    if name in GGUF:
        file = folder / "out/gguf/model.gguf"
        published["gguf"] = load_gguf(file, published["merged"].config)
    if method == "lora":
        base = load(workspace / "model", dtype=torch.float32)
        published["adapter"] = PeftModel.from_pretrained(base, str(folder / "out/adapter"))
    untouched = logits(load(workspace / "model", dtype=torch.float32), probe)
    return {
        "error": None,
        "architecture": prepared["model"]["architecture"],
        "packed": prepared["data"]["packedRows"] < prepared["data"]["kept"],
        "losses": [step["loss"] for step in reporter.steps],  # type: ignore[attr-defined]
        "limit": told["artifact"]["maxLogitDifference"],
        "moved": float((expected - untouched).abs().max()),
        "differences": {
            what: float((logits(model, probe) - expected).abs().max())
            for what, model in published.items()
        },
    }


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return found
