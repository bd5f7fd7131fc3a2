"""The section "First step": from a start to the end of the first step, ours and HF Trainer's."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import trainer, training, training_data
from benchmarks.record import Section
from benchmarks.training import LORA, RANKS, Race
from benchmarks.training_data import Samples
from finetune_trainer.prepare.store import Segment, write_split

LENGTH, PER_RANK = 32, 4
"""Tokens of a sample, and samples of a rank: so few that the start decides."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="starts of each, in alternation")


def _measure(options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        folder = Path(name)
        training.save_model(folder / "model", 30)
        race = _race(folder / "race")
        ours, theirs = [], []
        for _ in range(options.runs):
            ours.append(_ours(race, folder / "model"))
            theirs.append(_theirs(race, folder / "model"))
            print(f"ours {ours[-1]:.2f} s, HF Trainer {theirs[-1]:.2f} s", flush=True)
    return text(ours, theirs)


def _race(folder: Path) -> Race:
    folder.mkdir()
    count = RANKS * PER_RANK
    ids = np.random.default_rng(1).integers(1, training_data.VOCABULARY, count * LENGTH)
    samples = Samples(ids.astype(np.int32), np.arange(1, count + 1) * LENGTH)
    samples.save(folder / "samples.npz")
    segments = [Segment(*samples.sample(number), number) for number in range(count)]
    rows = [segments[rank * PER_RANK : (rank + 1) * PER_RANK] for rank in range(RANKS)]
    write_split(folder / "data" / "train", rows, count * LENGTH)
    training_data.write_nothing(folder / "data" / "eval")
    return Race(folder, samples, 0, RANKS, count, steps=1)


def _ours(race: Race, model: Path) -> float:
    shutil.rmtree(race.folder / "attempts", ignore_errors=True)
    (race.folder / "model").unlink(missing_ok=True)
    (race.folder / "model").symlink_to(model)
    began = time.time()
    metrics = trainer.run(
        race.folder,
        model / "model.safetensors",
        {"lora": LORA},
        1,
        0,
        data={"sequenceLength": PER_RANK * LENGTH},
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    return float(next(line["at"] for line in lines if line.get("step") == 1)) - began


def _theirs(race: Race, model: Path) -> float:
    began = time.time()
    told = training.run_peer(race, model, LORA, "plain", PER_RANK)
    return max(float(one["ended"][0]) for one in told) - began


def text(ours: list[float], theirs: list[float]) -> str:
    """The table of all starts, in seconds."""
    own, other = median(ours), median(theirs)
    rows = [
        f"| {name} | {median(found):.2f} s ({min(found):.2f}–{max(found):.2f}) |"
        for name, found in (("**ours**", ours), ("HF Trainer + DeepSpeed", theirs))
    ]
    return f"""
A Llama in the shape of SmolLM2-135M, LoRA of rank 16, ZeRO-2, FP32, two ranks with one thread each
that start together on this machine, from the start of their processes to the end of their first
optimizer step, of {PER_RANK} samples of {LENGTH} tokens a rank. In alternation, medians of
{len(ours)}; packages and model are in the page cache. Ours has its launcher, self-test and checks
in it, and runs in the tests' environment as the other does: the image, which knows in advance what
transformers exports, is faster (see "Start-up"). In that environment PEFT imports bitsandbytes for
the other, which ours does not.

| contestant | start → first step done (from–to) |
|---|---|
{chr(10).join(rows)}

**{own / other:.2f}** of HF Trainer's (goal ≤ 0.8).
"""


SECTION = Section("First step", _measure, _add_options)
