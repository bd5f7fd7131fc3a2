"""The section "Start-up": medians of `start_up`, as Markdown."""

from __future__ import annotations

import argparse
from dataclasses import fields
from statistics import median
from typing import TypeVar

from benchmarks.installed import installed, said
from benchmarks.record import Section
from benchmarks.start_up import StartUps, TrainingStart

T = TypeVar("T")

FIRST = {"operator": 0.55, "training": 7.59, "baseline": 12.12}
"""Medians in seconds of the commit of the first record (5a986de), by the same command in the same
hour as the record of 2026-11-27, on the same 2 cores; on its own, slower machine it had 1.59, 17.63
and 26.41. Those of now stand as a share of them: on another machine measure that commit, too."""
PARTS = {
    "launcher": "launcher and interpreter: until the rank answers probes",
    "torch": "import of torch",
    "join": "import of DeepSpeed, ranks meet",
    "model": "import of transformers and peft, model, adapter and optimizer",
    "self_test": "self-test: packing, mask and gradients (goal < 5 s)",
    "baseline": "baseline evaluation of the example's held-out rows",
    "step": "first optimizer step",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="starts of each kind")


def _measure(options: argparse.Namespace) -> str:
    with installed("finetune-bench") as (cluster, kube, ours):
        starts = StartUps(cluster, kube, ours)
        operator = [said("operator", starts.operator()) for _ in range(options.runs)]
        # The first training would read the image's files from the disk, as none after it does.
        training = [
            said("training", starts.training(f"start-{run}")) for run in range(options.runs + 1)
        ]
    return _tables(operator, training[1:])


def _tables(operator: list[float], training: list[TrainingStart]) -> str:
    split = "\n".join(
        f"| {PARTS[part.name]} | {median(getattr(t, part.name) for t in training):.2f} s |"
        for part in fields(TrainingStart)
    )
    return f"""
Our images on the local cluster (one node), medians of {len(operator)} starts one after the
other, with warm page cache. Start: the container's PID 1 in the host's process table. The job is
the quickstart's: SmolLM2-135M, LoRA, ZeRO-2, two pods with one rank and at most one CPU each.
The first record's commit, 5a986de, was measured anew on 2026-11-27, on 2 cores;
its own record, 1.59, 17.63 and 26.41 s, is of a slower machine.

| figure | median | of the first record's commit (goal ≤ 0.5) |
|---|---|---|
| operator: container start → the API server has answered all watches | \
{_beside("operator", operator)} |
| training: container start → first step done, without the baseline evaluation | \
{_beside("training", [t.own for t in training])} |
| the same with the baseline evaluation | {_beside("baseline", [t.total for t in training])} |

Where rank 0's time goes:

| part | median |
|---|---|
{split}
"""


def _beside(name: str, seconds: list[float]) -> str:
    """The median, and its share of the first record's."""
    now = median(seconds)
    return f"{now:.2f} s | {now / FIRST[name]:.2f} × {FIRST[name]} s"


SECTION = Section("Start-up", _measure, _add_options)
