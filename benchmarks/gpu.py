"""Training speed and memory of one rank on one GPU, in BF16, on models with random weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from benchmarks import training_data
from finetune_operator.api.types import DataStatus, FineTuneJobSpec, ModelStatus
from finetune_operator.memory_ladder import Fit
from finetune_operator.preflight import predicted
from finetune_trainer.config import Lora
from finetune_trainer.prepare.shape import shape_of, shape_of_job

TOKENS = 4096
"""Of a row."""
WARM_UP = 2
"""First steps, which compile kernels and allocate memory."""
PEAK_FLOPS = 989e12
"""Dense BF16 of an H100 or H200 (SXM), from the maker's data sheet."""
STATES = {"vocab_size": 128_256, "model_type": "llama", "max_position_embeddings": 8192}
MODELS: dict[str, dict[str, Any]] = {
    "1B": STATES
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "8B": STATES
    | {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
"""The shapes of Llama 3.2 1B and Llama 3 8B."""


@dataclass(frozen=True)
class Case:
    """One training run."""

    name: str
    model: str
    lora: int = 0
    """Rank; 0: full fine-tuning."""
    rows: Literal["full", "chat"] = "full"
    """One sample that fills the row, all of it supervised; or chat samples, packed."""
    micro: int = 1
    """Rows; samples, of a peer."""
    accumulation: int = 8
    stage: int = 0
    checkpointing: bool = False
    nf4: bool = False
    """The frozen weights have 4 bits."""
    without: str = ""
    """Faster forms that are switched off: names of `gpu_rank.FORMS`, by comma."""
    steps: int = 4
    """After the warm-up."""
    peer: str = ""
    """A mode of Hugging Face's Trainer in place of ours."""
    sums: Literal["", "bf16", "fp32"] = "fp32"
    """Of a peer: what DeepSpeed adds its gradients up in; empty: it does without DeepSpeed."""

    @property
    def fit(self) -> Fit:
        return Fit(
            micro=self.micro,
            accumulation=self.accumulation,
            activation_checkpointing=self.checkpointing,
            zero_stage=self.stage,
            world_size=1,
            on_gpu=True,
            quantized=self.nf4,
        )

    @property
    def method(self) -> dict[str, Any]:
        """As in run.json; empty for full fine-tuning."""
        if not self.lora:
            return {}
        more = {"quantization": "NF4"} if self.nf4 else {}
        return {"lora": {"rank": self.lora, "alpha": 2 * self.lora, **more}}


@dataclass(frozen=True)
class Told:
    """What a run took."""

    case: Case
    speed: float = 0.0
    """Non-padding tokens per second: all tokens of the steps by their time."""
    step_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    predicted: int = 0
    error: str = ""

    def mfu(self, parameters: int) -> float:
        """4 FLOPs by parameter and token with LoRA, 6 without; attention is not counted."""
        return self.speed * (4 if self.case.lora else 6) * parameters / PEAK_FLOPS


def save_model(name: str, folder: Path) -> int:
    """Random BF16 weights in ``folder``. Returns the number of parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**MODELS[name])
    with torch.device("cuda"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    count = sum(int(weight.numel()) for weight in model.parameters())
    del model
    torch.cuda.empty_cache()
    return count


def write_rows(kind: str, folder: Path, rows: int = 128) -> None:
    """Packed rows of `TOKENS` random tokens, as prepare leaves them."""
    random = np.random.default_rng(1)
    if kind == "full":
        samples = training_data.drawn(np.full(rows, TOKENS), random, answer=1)
    else:  # median 300 tokens, 95th percentile 1,500
        lengths = random.lognormal(np.log(300), np.log(1500 / 300) / 1.645, rows * 9)
        samples = training_data.drawn(np.clip(lengths, 16, TOKENS).astype(np.int64), random)
    training_data.write_packed(samples, folder / "train", TOKENS)
    training_data.write_nothing(folder / "eval")
    samples.save(folder / "samples.npz")


def run(case: Case, model: Path, data: Path, workspace: Path, parameters: int) -> Told:
    """One run in ``workspace``, which is emptied afterwards."""
    workspace.mkdir(parents=True)
    try:
        if case.peer:
            return _run_peer(case, model, data, workspace)
        (workspace / "model").symlink_to(model)
        (workspace / "data").symlink_to(data / case.rows)
        (workspace / "run.json").write_text(json.dumps(_run_json(case, model)))
        code, tail = _train(case, workspace)
        metrics = workspace / "attempts/0/metrics.jsonl"
        if code:
            return Told(case, error=tail)
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        steps = [line for line in lines if "computeSeconds" in line][WARM_UP - 1 :]
        seconds = [late["at"] - early["at"] for early, late in pairwise(steps)]
        return Told(
            case,
            speed=sum(line["tokens"] for line in steps[1:]) / sum(seconds),
            step_seconds=seconds,
            losses=[line["loss"] for line in lines if "computeSeconds" in line],
            memory=json.loads((workspace / "memory.json").read_text()),
            predicted=prediction(case, parameters),
        )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def peer_settings(case: Case, model: Path, data: Path) -> dict[str, Any]:
    """Of `gpu_peer.Settings`."""
    return {
        "mode": case.peer,
        "model": str(model),
        "samples": str(data / case.rows / "samples.npz"),
        "lora": case.method.get("lora"),
        "micro": case.micro,
        "accumulation": case.accumulation,
        "steps": WARM_UP + case.steps,
        "learning_rate": _learning_rate(case),
        "checkpointing": case.checkpointing,
        "sums": case.sums,
    }


def _run_peer(case: Case, model: Path, data: Path, workspace: Path) -> Told:
    settings = workspace / "settings.json"
    settings.write_text(json.dumps(peer_settings(case, model, data)))
    code, tail = _started("benchmarks.gpu_peer", workspace, str(settings), TMPDIR=str(workspace))
    if code:
        return Told(case, error=tail)
    told = json.loads((workspace / "peer.json").read_text())
    ended = told["ended"][WARM_UP - 1 :]
    return Told(
        case,
        speed=sum(told["tokens"][WARM_UP:]) / (ended[-1] - ended[0]),
        step_seconds=[late - early for early, late in pairwise(ended)],
        losses=told["losses"],
        memory={"used": told["used"]},
    )


def prediction(case: Case, parameters: int) -> int:
    """Bytes that the memory plan says of the case."""
    lora = Lora.model_validate(case.method["lora"]) if case.lora else None
    shape = shape_of_job({"parameters": parameters, "shape": _meta_shape(case.model)}, lora)
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "pvc://models/random"},
            "data": {
                "train": [{"name": "rows", "uri": "pvc://data/rows.jsonl"}],
                "sequenceLength": TOKENS,
            },
            "method": case.method or {"full": {}},
            "training": {"steps": 3},
            "workers": {"count": 1, "gpusPerWorker": 1},
            "storage": {"claimRef": {"name": "workspace"}},
        }
    )
    model = ModelStatus.model_validate({"parameters": parameters, "shape": shape})
    data = DataStatus.model_validate({"longestRow": TOKENS, "mostSupervised": TOKENS})
    need = predicted(spec, case.fit, model, data)
    return (need and need.predicted_bytes) or 0


def _meta_shape(name: str) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[name])))  # type: ignore[no-untyped-call]


def _run_json(case: Case, model: Path) -> dict[str, Any]:
    source = {"name": "rows", "field": "spec.data.train[0]", "path": "/nowhere", "file": "rows"}
    return {
        "job": {"namespace": "bench", "name": "gpu", "uid": "0"},
        "model": {"path": str(model)},
        "data": {"train": [source], "sequenceLength": TOKENS},
        "method": case.method,
        "training": {
            "steps": WARM_UP + case.steps,
            "microBatchSize": case.micro,
            "accumulation": case.accumulation,
            "learningRate": _learning_rate(case),
            "schedule": {"type": "Constant"},
            "activationCheckpointing": case.checkpointing,
        },
        "zeroStage": case.stage,
        "workers": {"count": 1, "ranksPerWorker": 1, "device": "GPU"},
        "evaluation": {"baseline": False},
    }


def _learning_rate(case: Case) -> float:
    return 1e-4 if case.lora else 1e-5


def _train(case: Case, workspace: Path) -> tuple[int, str]:
    return _started(
        "benchmarks.gpu_rank",
        workspace,
        FINETUNE_RUN_JSON=str(workspace / "run.json"),
        FINETUNE_WORKSPACE=str(workspace),
        FINETUNE_ATTEMPT="0",
        FINETUNE_METRICS_PORT="0",
        GPU_MEMORY=str(workspace / "memory.json"),
        WITHOUT=case.without,
    )


def _started(module: str, workspace: Path, *arguments: str, **more: str) -> tuple[int, str]:
    """Exit code of the one rank, and the end of its output."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        **dict.fromkeys(("RANK", "LOCAL_RANK"), "0"),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"),
        **more,
    }
    command = [sys.executable, "-m", module, *arguments]
    log = workspace / "log"
    with log.open("w") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    return done.returncode, log.read_text()[-3000:]


def spread(told: Told) -> str:
    """Median, least and most of a step."""
    seconds = told.step_seconds
    return f"{median(seconds):.3f} s ({min(seconds):.3f}–{max(seconds):.3f})"
