"""Loss curves of real runs of the trainer, long after a policy would have stopped them.

A run is a small model on text of this repository. prepare and train are those of the pods, with one
rank and one thread; the curve comes from metrics.jsonl. It is kept as a file, so that the rules of
``finetune_trainer.judging.curve`` can be judged by what happened after they had spoken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks import warm
from benchmarks.curve_rows import HELD_OUT, ROOT, Rows, all_rows, rows_of

CURVES = ROOT / "tests" / "curves"
EVALUATIONS = 30
SEQUENCE = 128
VOCABULARY = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LEARNT = "learnt code"
"""The model that has learnt the code before; the others have random weights."""


@dataclass(frozen=True)
class Run:
    """One run. ``training``: more of that section of run.json."""

    name: str
    model: str
    """Name in ``MODELS``, or ``LEARNT``."""
    rows: Rows
    rate: float
    lora: dict[str, Any] | None = None
    steps: int = 240
    batch: int = 4
    """Packed rows of a step."""
    training: dict[str, Any] = field(default_factory=dict)


def _llama(kind: str, hidden: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 3 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2 * SEQUENCE,
    }


MODELS: dict[str, dict[str, Any]] = {
    "Llama 96×3": _llama("llama", 96, 3),
    "Llama 64×2": _llama("llama", 64, 2),
    "Qwen3 96×2": _llama("qwen3", 96, 2),
    "GPT-2 128×2": {
        "model_type": "gpt2",
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 2 * SEQUENCE,
    },
}
LEARNER = Run(LEARNT, "Llama 96×3", Rows("code", 800), 3e-3, steps=390)
"""Trains the model that others go on from."""


def measure(run: Run, folder: Path) -> dict[str, Any]:
    """Train it below ``folder``, and return its curve and how it came about.

    Models and prepared rows stay there for the runs that share them.
    """
    workspace = _prepared(run, folder)
    attempt = len(list((workspace / "attempts").glob("*")))
    _write_run_json(run, folder, workspace)
    warm.run("train", workspace, attempt)
    lines = (workspace / "attempts" / str(attempt) / "metrics.jsonl").read_text().splitlines()
    scored = [line for line in map(json.loads, lines) if "evalLoss" in line]
    base = next(line for line in scored if line["baseline"])
    training = json.loads((workspace / "run.json").read_text())["training"]
    return {
        "name": run.name,
        "model": run.model,
        "rows": run.rows.describe(),
        "method": {"lora": run.lora} if run.lora else {},
        "training": training,
        "steps": run.steps,
        "baseLoss": base["evalLoss"],
        "baseTrainLoss": base["trainSampleLoss"],
        "points": [
            [line["step"], round(line["evalLoss"], 5), round(line["trainSampleLoss"], 5)]
            for line in scored
            if not line["baseline"]
        ],
    }


def write(curve: dict[str, Any]) -> Path:
    """As a file that people can read, with a line for each point."""
    points = ",\n".join(f"    {json.dumps(point)}" for point in curve["points"])
    head = json.dumps(curve | {"points": []}, indent=2, ensure_ascii=False)
    CURVES.mkdir(exist_ok=True)
    file = CURVES / f"{curve['name'].replace(' ', '-').lower()}.json"
    file.write_text(head.replace('"points": []', f'"points": [\n{points}\n  ]') + "\n")
    return file


def _prepared(run: Run, folder: Path) -> Path:
    """The workspace of all runs with this model and these rows."""
    name = f"{run.model}, {run.rows.describe()}".replace(" ", "-")
    workspace = folder / name
    if workspace.exists():
        return workspace
    workspace.mkdir(parents=True)
    train, held = rows_of(run.rows)
    for split, rows in (("train", train), ("eval", held)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (workspace / f"{split}.jsonl").write_text(lines)
    _write_run_json(run, folder, workspace)
    warm.run("prepare", workspace)
    return workspace


def _write_run_json(run: Run, folder: Path, workspace: Path) -> None:
    def source(split: str) -> dict[str, str]:
        file = f"{split}.jsonl"
        return {"name": split, "field": f"spec.data.{split}[0]", "path": str(workspace / file)}

    content = {
        "job": {"namespace": "bench", "name": "curves", "uid": "0"},
        "model": {"path": str(_model(run.model, folder))},
        "data": {
            "train": [source("train")],
            "eval": [source("eval")],
            "sequenceLength": SEQUENCE,
            "overlong": "Split",
        },
        "method": {"lora": run.lora} if run.lora else {},
        "training": {
            "steps": run.steps,
            "microBatchSize": run.batch,
            "accumulation": 1,
            "learningRate": run.rate,
            **run.training,
        },
        "zeroStage": 0,
        "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
        "evaluation": {"everySteps": run.steps // EVALUATIONS},
    }
    (workspace / "run.json").write_text(json.dumps(content))


def _model(name: str, folder: Path) -> Path:
    place = folder / name.replace(" ", "-")
    if place.exists():
        return place
    if name == LEARNT:
        workspace = _prepared(LEARNER, folder)
        _write_run_json(LEARNER, folder, workspace)
        warm.run("train", workspace)
        warm.run("export", workspace)
        shutil.copytree(workspace / "output" / "merged", place)
        return place
    sizes = MODELS[name]
    with _seeded():
        config = AutoConfig.for_model(
            **sizes, vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=0
        )
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(place)
    _tokenizer().save_pretrained(place)
    return place


@contextmanager
def _seeded() -> Iterator[None]:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, learnt from all of the texts."""
    special = ["<|im_end|>", "<|im_start|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [json.dumps(row, ensure_ascii=False) for text in HELD_OUT for row in all_rows(text)]
    backend.train_from_iterator(texts, learner)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token=special[0], additional_special_tokens=special[1:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
