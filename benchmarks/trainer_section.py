"""The section "Trainer": the runs of `trainer`, as Markdown."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import trainer
from benchmarks.record import Section
from local_cluster.images.model import load_model_file

METHODS = {
    "LoRA, rank 16, every linear layer": {"lora": {"rank": 16, "alpha": 32}},
    "full fine-tuning": {},
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each run")


def _measure(options: argparse.Namespace) -> str:
    rows = []
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        workspace = Path(folder)
        model = load_model_file(workspace / "carrier")
        trainer.prepare(workspace, model)
        for attempt, (name, method) in enumerate(METHODS.items()):
            # An attempt goes on from the checkpoints of those before it; these write none.
            found = trainer.train(workspace, model, method, options.steps, attempt)
            rows.append(
                f"| {name} | {found.tokens_per_second:.0f} | {found.step_seconds:.2f} s "
                f"| {found.outside:.1%} |"
            )
    return f"""
SmolLM2-135M in FP32 on the quickstart's data, ZeRO-2, two ranks with one thread each, rows of 256
tokens, one row a rank and step; {options.steps - trainer.WARM_UP} steps after \
{trainer.WARM_UP} of warm-up.

| method | tokens/s | median step | outside forward, backward, optimizer (goal ≤ 3 %) |
|---|---|---|---|
{chr(10).join(rows)}
"""


SECTION = Section("Trainer", _measure, _add_options)
