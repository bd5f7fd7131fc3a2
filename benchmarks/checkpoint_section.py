"""The section "Checkpoint": training that saves beside it against training that stands still."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import checkpoint, trainer, training, training_data
from benchmarks.checkpoint import Save
from benchmarks.record import Section
from local_cluster.images.model import load_model_file

EVERY = 4
SEQUENCE_LENGTH = 128
MODES = {"blocking": False, "asynchronous": True}
PEER = "HF Trainer + DeepSpeed"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=3, help="runs of each kind, one after another")
    parser.add_argument("--saves", type=int, default=2, help="checkpoints of each run")


def _measure(options: argparse.Namespace) -> str:
    found: defaultdict[str, list[Save]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        workspace = Path(folder)
        model = load_model_file(workspace / "carrier")
        trainer.prepare(workspace, model, sequence_length=SEQUENCE_LENGTH)
        for _ in range(options.runs):
            steps = EVERY * (options.saves + 1)
            for name, asynchronous in MODES.items():
                metrics = trainer.run(
                    workspace,
                    model,
                    {},
                    steps,
                    0,
                    data={"sequenceLength": SEQUENCE_LENGTH},
                    checkpoint={"everySteps": EVERY, "asynchronous": asynchronous},
                )
                lines = [json.loads(line) for line in metrics.read_text().splitlines()]
                found[name] += checkpoint.saves(lines, EVERY)
                shutil.rmtree(workspace / "attempts")
            found[PEER] += checkpoint.saves(_peer(workspace, steps), EVERY)
    return text(found)


def _peer(workspace: Path, steps: int) -> list[dict[str, Any]]:
    """One run of it on rows of the same length."""
    rows = training.RANKS * steps
    samples = training_data.drawn(np.full(rows, SEQUENCE_LENGTH), np.random.default_rng(0))
    folder = workspace / "peer"
    folder.mkdir(exist_ok=True)
    samples.save(folder / "samples.npz")
    race = training.Race(folder, samples, 0, 0, samples_per_step=training.RANKS, steps=steps)
    told = training.run_peer(race, workspace / "model", None, "plain", 1, save_every=EVERY)
    return checkpoint.lines_of_peer(told[0])


def text(found: dict[str, list[Save]]) -> str:
    """The table of all saves by mode."""
    size, of_peer = found["blocking"][0].bytes, found[PEER][0].bytes
    middle = {
        name: {
            figure: median(getattr(save, figure) for save in saves)
            for figure in ("stall", "stood_still", "seconds")
        }
        for name, saves in found.items()
    }
    blocking, beside, theirs = (middle[name]["stall"] for name in (*MODES, PEER))
    rows = [
        f"| {name} | {len(found[name])} | {one['stall']:.2f} s "
        f"({min(s.stall for s in found[name]):.2f}–{max(s.stall for s in found[name]):.2f}) "
        f"| {one['stood_still']:.2f} s | {one['seconds']:.2f} s |"
        for name, one in middle.items()
    ]
    return f"""
SmolLM2-135M in FP32, full fine-tuning with AdamW, ZeRO-2, two ranks with one thread each, rows of
{SEQUENCE_LENGTH} tokens; a checkpoint of {size / 1e9:.2f} GB every {EVERY} steps. Runs of the
kinds alternate; figures are medians over all checkpoints. Stall: how much longer the {EVERY} steps
after its begin took than as many undisturbed steps of the same run; so it holds what hashing and
writing take away from training beside them: all cores compute here, so that only waiting for the
disk can be hidden. The Trainer saves by DeepSpeed's `save_checkpoint` and as a model besides,
{of_peer / 1e9:.2f} GB; it neither hashes them nor asks the disk to confirm them, as ours does in
both ways.

| saving | checkpoints | stall of training (from–to) | of it standing still | until published |
|---|---|---|---|---|
{chr(10).join(rows)}

Asynchronous by the Trainer's: **{beside / theirs:.2f}** (goal ≤ 0.5, stretch 0.3);
by our own blocking way {beside / blocking:.2f}, which is {blocking / theirs:.2f} of the Trainer's.
The price is a copy of the state in host memory, {size / 1e9:.2f} GB over all ranks.
"""


SECTION = Section("Checkpoint", _measure, _add_options)
