"""A whole prepared workspace in miniature: a random two-layer Llama and a few packed rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_trainer.prepare.store import Segment, write_split

VOCABULARY = 64


def random_rows(
    seed: int, lengths: Sequence[Sequence[int]], *, supervised: float = 0.6
) -> list[list[Segment]]:
    """Packed rows of random tokens; ``lengths`` are the segment lengths of each row."""
    random = np.random.default_rng(seed)
    rows = []
    number = 0
    for row in lengths:
        segments = []
        for length in row:
            ids = random.integers(1, VOCABULARY, length).astype(np.int32)
            targets = (random.random(length) < supervised).astype(np.uint8)
            targets[-1] = 1
            segments.append(Segment(ids, targets, number))
            number += 1
        rows.append(segments)
    return rows


def write_rows(folder: Path, rows: list[list[Segment]]) -> None:
    write_split(folder, rows, sum(len(s.input_ids) for row in rows for s in row))


def row_lengths(seed: int, count: int, *, longest: int = 12) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [
        [int(n) for n in random.integers(2, longest, random.integers(1, 4))] for _ in range(count)
    ]


def tiny_llama(**overrides: Any) -> Any:
    """A random Llama of about 27,000 parameters; the same weights for the same arguments."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(settings | overrides)))


def run_config(**overrides: Any) -> dict[str, Any]:
    """run.json of a small LoRA job on the CPU; overrides replace whole sections or merge dicts."""
    config: dict[str, Any] = {
        "job": {"namespace": "default", "name": "tiny", "uid": "0"},
        "model": {"path": "/sources/model"},
        "data": {
            "train": [{"name": "train-0", "field": "spec.data.train[0]", "path": "/sources/t"}],
            "sequenceLength": 64,
        },
        "method": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "training": {
            "steps": 8,
            "microBatchSize": 1,
            "accumulation": 2,
            "learningRate": 0.01,
        },
        "zeroStage": 2,
        "workers": {"count": 1, "ranksPerWorker": 2, "device": "CPU"},
    }
    for key, value in overrides.items():
        merge = isinstance(value, dict) and isinstance(config.get(key), dict) and key != "method"
        config[key] = {**config[key], **value} if merge else value
    return config


def make_workspace(root: Path, *, train_rows: int = 11, eval_rows: int = 3, **config: Any) -> Path:
    """Write model, data and run.json; returns the workspace. run.json lies beside ``data``."""
    root.mkdir(parents=True, exist_ok=True)
    tiny_llama().save_pretrained(root / "model")
    write_rows(root / "data" / "train", random_rows(1, row_lengths(1, train_rows)))
    write_rows(root / "data" / "eval", random_rows(2, row_lengths(2, eval_rows)))
    (root / "run.json").write_text(json.dumps(run_config(**config)))
    return root
