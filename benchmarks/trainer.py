"""Speed of the trainer on the quickstart's own job: SmolLM2-135M, two CPU ranks, ZeRO-2.

The trainer package runs as in two training pods: two launchers with one rank and one thread each,
which meet on this machine. Figures come from metrics.jsonl, so they are the trainer's own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from quickstart.dataset import DATA, EVAL_FILE, TRAIN_FILE

WORKERS = 2
WARM_UP = 2
"""First steps, which allocate memory; they do not count."""


@dataclass(frozen=True)
class Speed:
    """One training run."""

    steps: int
    step_seconds: float
    """Median time from the end of one step to the end of the next."""
    mean_seconds: float
    tokens_per_second: float
    outside: float
    """Share of that time that is not forward, backward or optimizer."""


def prepare(workspace: Path, model: Path, *, sequence_length: int = 256) -> None:
    """Model and data on ``workspace``, by the prepare stage."""
    _run_json(workspace, model, {}, 1, {"sequenceLength": sequence_length}, {}, {})
    stage("prepare", workspace, {})


def train(workspace: Path, model: Path, method: dict[str, Any], steps: int, attempt: int) -> Speed:
    """Train ``steps`` steps as attempt ``attempt`` and read what they took."""
    return speed(run(workspace, model, method, steps, attempt))


def run(
    workspace: Path,
    model: Path,
    method: dict[str, Any],
    steps: int,
    attempt: int,
    *,
    data: dict[str, Any] | None = None,
    checkpoint: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Path:
    """Train, and return the run's metrics.jsonl. The keyword arguments go into run.json."""
    _run_json(workspace, model, method, steps, data or {}, checkpoint or {}, training or {})
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    pods = [
        start(
            "train",
            workspace,
            {
                "FINETUNE_ATTEMPT": str(attempt),
                "JOB_COMPLETION_INDEX": str(index),
                "FINETUNE_METRICS_PORT": "0",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for index in range(WORKERS)
    ]
    wait(pods)
    return workspace / "attempts" / str(attempt) / "metrics.jsonl"


def speed(metrics: Path, warm_up: int = WARM_UP) -> Speed:
    """The figures of a run from its steps after the warm-up, at least one."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "computeSeconds" in line][warm_up - 1 :]
    seconds = [late["at"] - early["at"] for early, late in pairwise(steps)]
    counted = steps[1:]
    return Speed(
        steps=len(counted),
        step_seconds=median(seconds),
        mean_seconds=sum(seconds) / len(seconds),
        tokens_per_second=sum(line["tokens"] for line in counted) / sum(seconds),
        outside=1 - sum(line["computeSeconds"] for line in counted) / sum(seconds),
    )


def _run_json(
    workspace: Path,
    model: Path,
    method: dict[str, Any],
    steps: int,
    data: dict[str, Any],
    checkpoint: dict[str, Any],
    training: dict[str, Any],
) -> None:
    def source(split: str, file: str) -> dict[str, str]:
        return {"name": split, "field": f"spec.data.{split}[0]", "path": str(DATA), "file": file}

    content = {
        "job": {"namespace": "bench", "name": "trainer", "uid": "0"},
        "model": {"path": str(model.parent), "file": model.name},
        "data": {
            "train": [source("train", TRAIN_FILE)],
            "eval": [source("eval", EVAL_FILE)],
            "sequenceLength": 256,
            **data,
        },
        "method": method,
        "training": {
            "steps": steps,
            "microBatchSize": 1,
            "accumulation": 1,
            "learningRate": 2e-3 if method else 1e-5,
            **training,
        },
        "zeroStage": 2,
        "workers": {"count": WORKERS, "ranksPerWorker": 1, "device": "CPU"},
        "evaluation": {"baseline": False},
        "checkpoint": checkpoint,
    }
    (workspace / "run.json").write_text(json.dumps(content))


def stage(name: str, workspace: Path, extra: dict[str, str]) -> None:
    """Run a stage of one pod to its end; ``extra`` goes into its environment."""
    wait([start(name, workspace, extra)])


def start(stage: str, workspace: Path, extra: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "FINETUNE_RUN_JSON": str(workspace / "run.json"),
        "FINETUNE_WORKSPACE": str(workspace),
        "FINETUNE_TERMINATION_LOG": str(workspace / "termination-log"),
        **extra,
    }
    return subprocess.Popen([sys.executable, "-m", "finetune_trainer", stage], env=environment)


def wait(processes: list[subprocess.Popen[bytes]]) -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"the trainer ended with {codes}: see its output above")
