"""Peak memory of a rank beside what the memory plan predicts for it, on CPU.

A configuration is a model with random weights and the settings of a job. prepare and train run as
in the pods, with one launcher and one rank per worker on this machine; the prediction comes from
the termination message of prepare, on the operator's own way.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import trainer
from finetune_operator.api.types import DataStatus, FineTuneJobSpec, MemoryStatus, ModelStatus
from finetune_operator.memory_ladder import Fit
from finetune_operator.preflight import predicted
from finetune_operator.reports import read_last_words

STEPS = 3
SAMPLE_SECONDS = 0.005
ROWS = 64
PROC = Path("/proc")
TOKENIZER = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class Configuration:
    """A model with random weights, and how it is trained."""

    name: str
    model: dict[str, Any]
    """``model_type`` and sizes, as in config.json."""
    stage: int
    ranks: int
    micro: int
    tokens: int
    """Of a packed row."""
    accumulation: int = 1
    lora: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    """More of ``training`` in run.json."""
    saves: bool = False
    """One checkpoint, written beside the training."""

    @property
    def fit(self) -> Fit:
        return Fit(
            micro=self.micro,
            accumulation=self.accumulation,
            activation_checkpointing=self.training.get("activationCheckpointing", False),
            zero_stage=self.stage,
            world_size=self.ranks,
            checkpoint_copy=self.saves,
        )

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job as a user writes it, as far as the prediction reads it."""
        optimizer = self.training.get("optimizer", {})
        return FineTuneJobSpec.model_validate(
            {
                "model": {"uri": "pvc://models/random"},
                "data": {
                    "train": [{"name": "rows", "uri": "pvc://data/rows.jsonl"}],
                    "sequenceLength": self.tokens,
                },
                "method": {"lora": self.lora} if self.lora else {"full": {}},
                "training": {"optimizer": optimizer, "steps": STEPS},
                "workers": {"count": self.ranks, "ranksPerWorker": 1},
                "checkpoint": {"everySteps": 2} if self.saves else {},
                "storage": {"claimRef": {"name": "workspace"}},
            }
        )


@dataclass(frozen=True)
class Outcome:
    """One configuration: bytes of the rank that needed most."""

    name: str
    parameters: int
    predicted: int
    measured: int
    parts: dict[str, int]

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured; positive: too much."""
        return self.predicted / self.measured - 1


def measure(configuration: Configuration, tokenizer: Path, folder: Path) -> Outcome:
    """Prepare and train it in ``folder``, which is emptied afterwards."""
    folder.mkdir(parents=True)
    try:
        _random_model(configuration.model, tokenizer, folder / "source")
        _write_rows(folder / "rows.jsonl", configuration.tokens)
        _write_run_json(configuration, folder)
        trainer.stage("prepare", folder, {})
        memory = _prediction(configuration, folder)
        peak = _train(configuration, folder)
    finally:
        shutil.rmtree(folder)
    [parameters, need] = memory
    assert need.predicted_bytes is not None  # noqa: S101 - all of its shape is known
    return Outcome(
        configuration.name, parameters, need.predicted_bytes, peak, dict(need.parts or {})
    )


def _prediction(configuration: Configuration, folder: Path) -> tuple[int, MemoryStatus]:
    words = read_last_words((folder / "termination-log").read_text())
    if words is None or words.model is None or words.data is None:
        raise RuntimeError("prepare left no account of model and data")
    model = ModelStatus(**words.model.model_dump(exclude_none=True))
    data = DataStatus(**words.data.model_dump(exclude_none=True))
    need = predicted(configuration.spec, configuration.fit, model, data)
    if need is None:
        raise RuntimeError("prepare did not tell the model's shape")
    return model.parameters or 0, need


def _train(configuration: Configuration, folder: Path) -> int:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    pods = [
        trainer.start(
            "train",
            folder,
            {
                "FINETUNE_ATTEMPT": "0",
                "FINETUNE_TERMINATION_LOG": str(folder / f"termination-log-{index}"),
                "JOB_COMPLETION_INDEX": str(index),
                "FINETUNE_METRICS_PORT": "0",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for index in range(configuration.ranks)
    ]
    watched = [Watched(pod) for pod in pods]
    trainer.wait(pods)
    return max(one.peak() for one in watched)


class Watched:
    """Follows a launcher and its rank, and keeps the most that both held together.

    Counted is what no reclaim can take away: anonymous and shared memory. Samples may miss a short
    peak, so the kernel's own high-water mark of the rank, less the mapped files, counts as well.
    """

    def __init__(self, launcher: subprocess.Popen[bytes]) -> None:
        self._launcher = launcher
        self._sampled = self._own = self._high = 0
        self._files = 0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """Bytes, once the processes have ended."""
        self._thread.join()
        return max(self._sampled, self._high - self._files) + self._own

    def _follow(self) -> None:
        while self._launcher.poll() is None:
            for rank in self._ranks():
                held = memory_of(rank)
                if held:
                    self._sampled = max(self._sampled, held["RssAnon"] + held["RssShmem"])
                    self._high = max(self._high, held["VmHWM"])
                    self._files = max(self._files, held["RssFile"])
            own = memory_of(PROC / str(self._launcher.pid))
            self._own = max(self._own, own.get("RssAnon", 0))
            time.sleep(SAMPLE_SECONDS)

    def _ranks(self) -> list[Path]:
        pid = self._launcher.pid
        try:
            return [
                PROC / child for child in (PROC / f"{pid}/task/{pid}/children").read_text().split()
            ]
        except OSError:
            return []


def memory_of(process: Path) -> dict[str, int]:
    """Bytes by the names of ``/proc/<pid>/status``; empty where it has ended."""
    wanted = {"VmHWM", "RssAnon", "RssFile", "RssShmem"}
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split(":") for line in lines if line.partition(":")[0] in wanted]
    found = {name: int(rest.split()[0]) * 1024 for name, rest in pairs}
    return found if len(found) == len(wanted) else {}


def _random_model(sizes: dict[str, Any], tokenizer: Path, folder: Path) -> None:
    config = AutoConfig.for_model(**sizes)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for name in TOKENIZER:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)


def _write_rows(file: Path, tokens: int) -> None:
    """Conversations that fill packed rows: a third of a row each, most of it the answer."""
    draw = random.Random(7)  # noqa: S311 - rows to measure with
    words = [
        *("gang", "step", "rank", "shard", "queue", "plan"),
        *("model", "loss", "token", "batch", "score", "epoch"),
    ]

    def text(count: int) -> str:
        return " ".join(draw.choice(words) for _ in range(count))

    with file.open("w") as lines:
        for _ in range(ROWS):
            messages = [
                {"role": "user", "content": text(tokens // 20)},
                {"role": "assistant", "content": text(tokens // 4)},
            ]
            lines.write(json.dumps({"messages": messages}) + "\n")


def _write_run_json(configuration: Configuration, folder: Path) -> None:
    rows = {
        "name": "rows",
        "field": "spec.data.train[0]",
        "path": str(folder),
        "file": "rows.jsonl",
    }
    content = {
        "job": {"namespace": "bench", "name": "memory", "uid": "0"},
        "model": {"path": str(folder / "source")},
        "data": {
            "train": [rows],
            "sequenceLength": configuration.tokens,
            "cleaning": {"exactDuplicates": "Report"},
        },
        "method": {"lora": configuration.lora} if configuration.lora else {},
        "training": {
            "steps": STEPS,
            "microBatchSize": configuration.micro,
            "accumulation": configuration.accumulation,
            "learningRate": 1e-5,
            **configuration.training,
        },
        "zeroStage": configuration.stage,
        "workers": {"count": configuration.ranks, "ranksPerWorker": 1, "device": "CPU"},
        "evaluation": {"baseline": False},
        "checkpoint": {"everySteps": 2} if configuration.saves else {},
    }
    (folder / "run.json").write_text(json.dumps(content))


def as_json(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome))
