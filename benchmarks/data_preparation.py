"""Prepare and its peer over the same rows, each in a process of its own.

    python -m benchmarks.data_preparation {ours|peer} ROWS MODEL FOLDER

prepares and prints one JSON object: seconds from the first row read to the last file written,
without imports and without the model, and what was made. Memory is that of the process and of those
that it starts, as the parent sees it, what they share counted once; pages of mapped files are left
out, because the kernel takes them back when it needs them.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

LENGTH = 1024
_MEDIAN_WORDS, _SPREAD, _MOST_WORDS = 42, 0.95, 400
_REPEATED = 0.02
_PROC = Path("/proc")

Contestant = Literal["ours", "peer"]


@dataclass(frozen=True)
class Run:
    """One preparation."""

    rows: int
    seconds: float
    cpu_seconds: float
    """Of all of its processes: on a busy machine fairer than the time that passed."""
    peak_bytes: int
    """Memory of its own at its fullest, all of its processes together."""
    made: dict[str, Any]

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def write_rows(path: Path, count: int) -> None:
    """Chats of one turn, lengths log-normal as in long-tailed data; 2 % repeat an earlier one of
    the last thousand exactly, 2 % almost."""
    rng = random.Random(0)  # noqa: S311 - rows to measure with
    words = [_word(rng) for _ in range(20_000)]
    with path.open("w") as file:
        recent: list[list[str]] = []
        for _ in range(count):
            chance = rng.random()
            wanted = int(rng.lognormvariate(math.log(_MEDIAN_WORDS), _SPREAD))
            said = rng.choices(words, k=min(_MOST_WORDS, max(8, wanted)))
            if recent and chance < 2 * _REPEATED:
                said = list(rng.choice(recent))
                if chance < _REPEATED:
                    said[-1] = "other"
            recent = [*recent[-999:], said]
            third = len(said) // 3
            turns = [("user", said[:third]), ("assistant", said[third:])]
            messages = [{"role": role, "content": " ".join(part)} for role, part in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(("ka", "lo", "min", "ter", "su", "re", "an", "ing"), k=3))


def run(who: Contestant, rows: Path, count: int, model: Path, folder: Path) -> Run:
    """Prepare ``count`` rows in a process of its own. Raises ``RuntimeError``."""
    folder.mkdir(parents=True)
    errors = folder / "errors.txt"
    command = [sys.executable, "-m", __name__, who, str(rows), str(model), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
                   "HF_HUB_OFFLINE": "1"}  # fmt: skip
    with errors.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stream)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.1)
    assert process.stdout is not None  # noqa: S101 - PIPE was asked for
    lines = process.stdout.read().decode().splitlines()
    if process.returncode != 0:
        raise RuntimeError(f"{who} failed:\n{errors.read_text()[-2000:]}")
    told = json.loads(lines[-1])
    return Run(count, told["seconds"], told["cpuSeconds"], peak, told["made"])


def _memory(pid: int) -> int:
    """Bytes of a process and of those that it started, without pages of files."""
    try:
        status = (_PROC / str(pid) / "smaps_rollup").read_text()
        children = (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except (OSError, ValueError):
        return 0
    own = sum(
        int(line.split()[1])
        for line in status.splitlines()
        if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
    )
    return 1024 * own + sum(_memory(int(child)) for child in children)


@dataclass
class _Spent:
    """Time that a piece of work took: its own, and that of its processes once they have ended."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def _clock() -> Iterator[_Spent]:
    spent = _Spent()
    started, cpu = time.monotonic(), _cpu_seconds()
    yield spent
    spent.seconds, spent.cpu_seconds = time.monotonic() - started, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _ours(rows: Path, model: Path, folder: Path) -> tuple[_Spent, dict[str, Any]]:
    from finetune_trainer.config import RunConfig
    from finetune_trainer.prepare import stage
    from finetune_trainer.prepare.model import prepare_model
    from finetune_trainer.prepare.store import PackedDataset

    config = RunConfig.model_validate(
        {
            "job": {"namespace": "bench", "name": "data", "uid": "0"},
            "model": {"path": str(model)},
            "data": {
                "train": [{"name": "rows", "field": "spec.data.train[0]", "path": str(rows)}],
                "sequenceLength": LENGTH,
            },
            "method": {"lora": {}},
            "training": {
                "epochs": 1,
                "microBatchSize": 1,
                "accumulation": 1,
                "learningRate": 1e-4,
            },
            "zeroStage": 2,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
        }
    )
    prepared = prepare_model(config.model, folder)
    with _clock() as spent:
        made = stage.prepare_data(config, folder, prepared)
    return spent, {
        "kept": made["kept"],
        "held_out": made["evalRows"],
        "near_duplicates": made["reported"].get("nearDuplicates", 0),
        "tokens": made["tokens"],
        "packed_rows": made["packedRows"],
        "all_tokens": made["tokens"] + made["evalTokens"],
        "all_targets": sum(
            int(PackedDataset(folder / "data" / side).num_supervised.sum())
            for side in ("train", "eval")
        ),
    }


def _peer(rows: Path, model: Path, folder: Path) -> tuple[_Spent, dict[str, Any]]:
    from transformers import AutoTokenizer

    from benchmarks import data_peer
    from finetune_trainer.prepare.workers import usable_processes

    AutoTokenizer.from_pretrained(model)  # imports what it needs
    with _clock() as spent:
        made = data_peer.prepare(rows, model, folder, LENGTH, usable_processes())
    return spent, asdict(made)


def main(who: str, rows: str, model: str, folder: str) -> None:
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    contestant = _ours if who == "ours" else _peer
    spent, made = contestant(Path(rows), Path(model), Path(folder))
    told = {"seconds": spent.seconds, "cpuSeconds": spent.cpu_seconds, "made": made}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
