"""Training speed beside its peers: the same model, samples and tokens per optimizer step.

Ours runs as in two training pods, on packed rows; peers run as two ranks, see `training_peers`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import trainer, training_data
from benchmarks.training_data import LONGEST, Samples
from benchmarks.training_peers import LEARNING_RATE, Settings
from finetune_trainer.fast import matrix
from finetune_trainer.launcher import HUGE_PAGES

RANKS = 2
ALIKE = 0.03
"""By so much the tokens of a step may differ between contestants."""
WARM_UP = 1
"""First steps, which do not count."""
SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
"""The shape of SmolLM2-135M."""
LORA = {"rank": 16, "alpha": 32}
OURS = "ours"


@dataclass(frozen=True)
class Race:
    """What all contestants train on."""

    folder: Path
    samples: Samples
    parameters: int
    rows_per_step: int
    """Packed rows of an optimizer step; a multiple of the ranks."""
    samples_per_step: int
    steps: int


@dataclass(frozen=True)
class Result:
    """One run of one contestant, without the warm-up."""

    tokens: int
    seconds: float
    loss: float
    """Of the last step."""

    @property
    def speed(self) -> float:
        """Non-padding tokens per second of both ranks."""
        return self.tokens / self.seconds


def save_model(folder: Path, layers: int) -> int:
    """Random weights in ``folder``. Returns the number of parameters."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**SMOLLM2, "num_hidden_layers": layers})
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def race(
    folder: Path, samples: Samples, *, parameters: int, rows: int, micros: list[int], steps: int
) -> Race:
    """Lay the samples out for everybody.

    Each step has ``rows`` packed rows or a few more: as few as have the tokens of a whole number of
    samples, within 3 %, that is a multiple of every micro-batch in ``micros`` on all ranks.
    """
    folder.mkdir()
    samples.save(folder / "samples.npz")
    packed = training_data.write_packed(samples, folder / "data" / "train")
    training_data.write_nothing(folder / "data" / "eval")
    least = math.lcm(*micros) * RANKS
    in_row = len(samples.lengths) / packed
    for count in range(rows, rows + 100 * RANKS, RANKS):
        per_step = round(count * in_row / least) * least
        if abs(per_step / (count * in_row) - 1) <= ALIKE:
            break
    return Race(folder, samples, parameters, count, per_step, steps)


def ours(race: Race, model: Path, lora: dict[str, Any] | None) -> Result:
    attempts = race.folder / "attempts"
    shutil.rmtree(attempts, ignore_errors=True)
    (race.folder / "model").unlink(missing_ok=True)
    (race.folder / "model").symlink_to(model)
    metrics = trainer.run(
        race.folder,
        model / "model.safetensors",
        {"lora": lora} if lora else {},
        race.steps,
        0,
        data={"sequenceLength": LONGEST},
        training={
            "accumulation": race.rows_per_step // RANKS,
            "learningRate": LEARNING_RATE,
            "schedule": {"type": "Constant"},
        },
    )
    told = trainer.speed(metrics, WARM_UP)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    seconds = told.steps * told.mean_seconds
    return Result(round(told.tokens_per_second * seconds), seconds, losses[-1])


def peer(race: Race, model: Path, lora: dict[str, Any] | None, name: str, micro: int) -> Result:
    """One run of a peer with micro-batches of ``micro`` samples. Raises ``RuntimeError``."""
    told = run_peer(race, model, lora, name, micro)
    return Result(
        sum(sum(one["tokens"][WARM_UP:]) for one in told),
        max(sum(one["seconds"][WARM_UP:]) for one in told),
        told[0]["losses"][-1],
    )


def run_peer(
    race: Race,
    model: Path,
    lora: dict[str, Any] | None,
    name: str,
    micro: int,
    save_every: int = 0,
) -> list[dict[str, Any]]:
    """What its ranks told: `training_peers.Told`."""
    settings = Settings(
        peer=name,
        model=str(model),
        samples=str(race.folder / "samples.npz"),
        lora=lora,
        per_step=race.samples_per_step,
        micro=micro,
        steps=race.steps,
        save_every=save_every,
    )
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="finetune-peer-") as scratch:
        path = Path(scratch) / "settings.json"
        path.write_text(json.dumps(asdict(settings)))
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.training_peers", str(path)],
                env={
                    **os.environ,
                    **HUGE_PAGES,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(RANKS),
                    "LOCAL_WORLD_SIZE": str(RANKS),
                    "MASTER_ADDR": "localhost",
                    "MASTER_PORT": str(port),
                    "DS_ACCELERATOR": "cpu",
                    "OMP_NUM_THREADS": "1",
                    "TMPDIR": scratch,
                },
            )
            for rank in range(RANKS)
        ]
        trainer.wait(ranks)
        return [json.loads((Path(scratch) / f"rank-{rank}.json").read_text())
                for rank in range(RANKS)]  # fmt: skip


def ceiling() -> float:
    """fp32 FLOPs per second of both ranks' matrix products at once, by the faster library."""
    probes = [
        subprocess.Popen(
            [sys.executable, "-c", "from benchmarks.training import probe; probe()"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for _ in range(RANKS)
    ]
    told = [float(probe.communicate()[0]) for probe in probes]
    return sum(told)


def probe(seconds: float = 1.0) -> None:
    """Print the rate of one rank at the sizes of an MLP, over so many seconds with each library."""
    x, weight = torch.randn(1024, 576), torch.randn(1536, 576)
    best = 0.0
    for product in (matrix.times, lambda x, weight: x @ weight.t()):
        product(x, weight)
        began, count = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            product(x, weight)
            count += 1
        best = max(best, 2 * x.numel() * len(weight) * count / passed)
    print(best)
