"""The sections "Training": ours and its peers in alternation, as Markdown.

One for each kind of work, because one takes up to an hour.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import training, training_data
from benchmarks.record import Section
from benchmarks.training import LORA, OURS, Race, Result
from benchmarks.training_data import Samples
from benchmarks.training_peers import MODES
from finetune_trainer.fast import matrix

METHODS: dict[str, tuple[str, dict[str, Any] | None, int]] = {
    "lora": ("LoRA, rank 16, every linear layer", LORA, 4),
    "full": ("full fine-tuning", None, 6),
}
"""Name, adapter, and FLOPs of a token by parameter."""
HAND = "hand"
NAMES = {OURS: "**ours**", HAND: "plain torch DDP by hand"} | {
    mode: f"HF Trainer + DeepSpeed, {mode}" for mode in MODES
}


@dataclass
class Board:
    """What one method's runs told."""

    runs: dict[str, list[Result]] = field(default_factory=lambda: defaultdict(list))
    micros: dict[str, int] = field(default_factory=dict)
    """The micro-batch that was fastest in the first round."""
    shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of the matrix products' ceiling."""

    def speed(self, name: str) -> float:
        return median(run.speed for run in self.runs[name])


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant")
    parser.add_argument(
        "--micro-batches", nargs="+", type=int, default=[1, 2, 4],
        help="of the peers, in samples; the first round tries all, the others the fastest",
    )  # fmt: skip
    parser.add_argument("--peers", nargs="+", choices=[*MODES, HAND], default=[*MODES, HAND])
    parser.add_argument("--steps", type=int, default=3, help="of each run, the first is warm-up")
    parser.add_argument(
        "--rows", type=int, default=6, help="packed rows of an optimizer step, at least"
    )
    parser.add_argument("--layers", type=int, default=30, help="of the model, to run it small")


def _on_chats(options: argparse.Namespace, method: str) -> str:
    """One method on chats with a long tail, beside all peers."""
    title, lora, flops = METHODS[method]
    # Enough that no sampler comes to its end; an epoch's last step may be short.
    samples = training_data.long_tailed(2 * options.rows * (options.steps + 1) * 8)
    with _laid_out(options, samples, options.micro_batches) as (race, model):
        micros = options.micro_batches
        board = _compete(race, model, lora, flops, options.peers, options, micros)
        lengths = sorted(samples.lengths)
        data = f"""
Chat data with a long tail: lengths are log-normal, median {median(lengths):.0f} tokens, 95th
percentile {lengths[len(lengths) * 95 // 100]}, cut at {training_data.LONGEST}; two thirds of a
sample are supervised. An optimizer step has {race.rows_per_step} packed rows or
{race.samples_per_step} samples, which have as many tokens, within {training.ALIKE:.0%}.
Hugging Face's Trainer at the micro-batch that was fastest in the first round."""
        return "\n".join([_head(options, race), data, _table(title, board)])


def _on_full_rows(options: argparse.Namespace) -> str:
    """Both methods on rows that one sample fills, beside the Trainer."""
    samples = training_data.full_rows(2 * options.rows * (options.steps + 1))
    with _laid_out(options, samples, [1]) as (race, model):
        boards = {
            title: _compete(race, model, lora, flops, ["plain"], options, [1])
            for title, lora, flops in METHODS.values()
        }
        data = f"""
Each row is one sample of {training_data.LONGEST} tokens, two thirds of them supervised; one row a
micro-batch, {race.rows_per_step} a step."""
        return "\n".join([_head(options, race), data, _full_rows(boards)])


@contextmanager
def _laid_out(
    options: argparse.Namespace, samples: Samples, micros: list[int]
) -> Iterator[tuple[Race, Path]]:
    """The race on ``samples``, and the model, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        model = Path(name) / "model"
        yield (
            training.race(
                Path(name) / "race",
                samples,
                parameters=training.save_model(model, options.layers),
                rows=options.rows,
                micros=micros,
                steps=options.steps,
            ),
            model,
        )


def _compete(
    race: Race,
    model: Path,
    lora: dict[str, Any] | None,
    flops: int,
    peers: list[str],
    options: argparse.Namespace,
    micros: list[int],
) -> Board:
    board = Board()
    for number in range(options.rounds):
        for name in [OURS, *peers]:
            before = training.ceiling()
            result = _run(board, race, model, lora, name, micros)
            rate = (before + training.ceiling()) / 2
            board.runs[name].append(result)
            board.shares[name].append(result.speed * flops * race.parameters / rate)
            print(
                f"round {number + 1}, {name}: {result.speed:.1f} tokens/s, "
                f"{board.shares[name][-1]:.2f} of the ceiling, loss {result.loss:.3f}",
                flush=True,
            )
    return board


def _run(
    board: Board,
    race: Race,
    model: Path,
    lora: dict[str, Any] | None,
    name: str,
    micros: list[int],
) -> Result:
    if name == OURS:
        return training.ours(race, model, lora)
    if name == HAND:  # each sample by itself
        return training.peer(race, model, lora, name, 1)
    if name in board.micros:
        return training.peer(race, model, lora, name, board.micros[name])
    tried = {micro: training.peer(race, model, lora, name, micro) for micro in micros}
    board.micros[name] = max(tried, key=lambda micro: tried[micro].speed)
    return tried[board.micros[name]]


def _head(options: argparse.Namespace, race: Race) -> str:
    processor = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    library = "oneDNN" if matrix.faster() else "torch's own library"
    return f"""
A Llama in the shape of SmolLM2-135M ({options.layers} layers, {race.parameters / 1e6:.0f} M
parameters, random weights) in FP32, ZeRO-2 (by hand: DDP), AdamW, clipping, two ranks with one
thread each, on {processor} with torch {torch.__version__}. Contestants alternate; medians of
{options.rounds} runs with {options.steps - training.WARM_UP} steps after {training.WARM_UP} of
warm-up.

Ours multiplies matrices by {library} on this processor. The ceiling: fp32 matrix products of both
ranks at once by the faster of MKL and oneDNN, probed before and after each run; a token has 4 FLOPs
by parameter with LoRA, 6 with full fine-tuning. All contestants' memory may lie in huge pages
(`GLIBC_TUNABLES`), as our launcher asks for."""


def _table(title: str, board: Board) -> str:
    own = board.speed(OURS)
    plain = board.speed("plain") if "plain" in board.runs else None
    lines = []
    for name, runs in board.runs.items():
        speeds = [run.speed for run in runs]
        micro = board.micros.get(name, 1)
        unit = "packed row" if name == OURS else f"sample{'s' if micro > 1 else ''}"
        by_plain = f"{board.speed(name) / plain:.2f} ×" if plain else ""
        lines.append(
            f"| {NAMES[name]} | {micro} {unit} | {median(speeds):.0f} "
            f"({min(speeds):.0f}–{max(speeds):.0f}) | {by_plain} | {own / median(speeds):.2f} × "
            f"| {median(board.shares[name]):.2f} |"
        )
    columns = (
        *("contestant", "micro-batch", "non-padding tokens/s (from–to)"),
        *("of plain", "ours by it", "share of the ceiling"),
    )
    modes = [board.speed(name) for name in board.runs if name in MODES]
    verdict = []
    if plain:
        verdict.append(f"by plain {own / plain:.2f} (goal ≥ 2.0)")
        verdict.append(f"by its best mode {own / max(modes):.2f} (goal ≥ 1.15)")
    if HAND in board.runs:
        shares = median(board.shares[OURS]), median(board.shares[HAND])
        verdict.append(
            f"share of the ceiling {shares[0]:.2f} beside {shares[1]:.2f} by hand (goal: no less)"
        )
    return f"""
### {title[0].upper()}{title[1:]}

| {" | ".join(columns)} |
|{"---|" * len(columns)}
{chr(10).join(lines)}

Ours: {"; ".join(verdict) or "alone"}."""


def _full_rows(boards: Mapping[str, Board]) -> str:
    lines = []
    for title, board in boards.items():
        own, theirs = board.speed(OURS), board.speed("plain")
        spans = {
            name: f"{median(speeds):.0f} ({min(speeds):.0f}–{max(speeds):.0f})"
            for name, runs in board.runs.items()
            for speeds in [[run.speed for run in runs]]
        }
        shares = f"{median(board.shares[OURS]):.2f}; {median(board.shares['plain']):.2f}"
        lines.append(
            f"| {title} | {spans[OURS]} | {spans['plain']} | **{own / theirs:.2f}** | {shares} |"
        )
    columns = (
        *("method", "ours, tokens/s (from–to)", NAMES["plain"], "ours by it (goal ≥ 1.05)"),
        "shares of the ceiling",
    )
    return f"""
| {" | ".join(columns)} |
|{"---|" * len(columns)}
{chr(10).join(lines)}"""


SECTION = Section("Training", partial(_on_chats, method="lora"), _add_options)
FULL = Section("Training, full fine-tuning", partial(_on_chats, method="full"), _add_options)
FULL_ROWS = Section("Training, full rows", _on_full_rows, _add_options)
