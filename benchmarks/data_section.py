"""The section "Data": runs of `data_preparation`, as Markdown."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.data_preparation import LENGTH, Contestant, Run, run, write_rows
from benchmarks.record import Section
from local_cluster.images.model import load_model_file

GOAL, FLAT = 1.5, 1.3
CONTESTANTS: tuple[Contestant, ...] = ("ours", "peer")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="rows to be fast with")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant")
    parser.add_argument(
        "--memory-rows", type=int, default=1_000_000, help="rows to be small with; 0: none"
    )


def _measure(options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        folder = Path(name)
        model = small_model(load_model_file(folder / "carrier"), folder / "model")
        rows = folder / "rows.jsonl"
        write_rows(rows, options.rows)
        runs: dict[Contestant, list[Run]] = {who: [] for who in CONTESTANTS}
        for _ in range(options.runs):  # in turns: a neighbour slows down both
            for who in CONTESTANTS:
                runs[who].append(_one(who, rows, options.rows, model, folder))
        many = None
        if options.memory_rows:
            write_rows(rows, options.memory_rows)
            many = _one("ours", rows, options.memory_rows, model, folder)
    return tables(runs, many)


def _one(who: Contestant, rows: Path, count: int, model: Path, folder: Path) -> Run:
    found = run(who, rows, count, model, folder / "work")
    shutil.rmtree(folder / "work")
    took = f"{found.seconds:.1f} s ({found.cpu_seconds:.1f} s of CPU)"
    print(f"{who}: {count:,} rows in {took}, {found.made}", flush=True)
    return found


def small_model(gguf: Path, folder: Path) -> Path:
    """A model of a few weights with the tokenizer of the quickstart's."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=4 * LENGTH,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tables(runs: dict[Contestant, list[Run]], many: Run | None) -> str:
    speed = {who: median(each.rows_per_second for each in runs[who]) for who in CONTESTANTS}
    cpu = {who: median(each.cpu_seconds for each in runs[who]) for who in CONTESTANTS}
    memory = {who: median(each.peak_bytes for each in runs[who]) for who in CONTESTANTS}
    ours, peer = (runs[who][0] for who in CONTESTANTS)
    lines = [
        f"| prepare: rows/s | ≥ {GOAL} × the peer | {speed['ours']:,.0f} = "
        f"{speed['ours'] / speed['peer']:.2f} × {speed['peer']:,.0f} |",
        f"| CPU seconds | | {cpu['ours']:.1f}; the peer {cpu['peer']:.1f} |",
        f"| memory at {ours.rows:,} rows | | {_mib(memory['ours'])}; the peer "
        f"{_mib(memory['peer'])} |",
    ]
    if many is not None:
        lines.append(
            f"| memory at {many.rows:,} rows | < {FLAT} × that at {ours.rows:,} | "
            f"{_mib(many.peak_bytes)} = {many.peak_bytes / memory['ours']:.2f} × |"
        )
        lines.append(f"| rows/s at {many.rows:,} rows | | {many.rows_per_second:,.0f} |")
    tokens = ours.made["tokens"] / ours.made["kept"]
    return f"""
Chats of one turn with the tokenizer of SmolLM2, {tokens:.0f} tokens a row on average, log-normal;
2 % exact and 2 % near duplicates; medians of {len(runs["ours"])} runs in turns. The peer is a
pipeline of `datasets` that follows the same rules, in batches and in as many processes
([data_peer.py](data_peer.py)). Prepare's time includes what the peer does not do: the report, the
account of every row, checks of the mask, hashes of its files. Memory: of all processes together,
without pages of mapped files.

| figure | goal | measured |
|---|---|---|
{chr(10).join(lines)}

| made of the rows | prepare | peer |
|---|---|---|
{chr(10).join(_beside(ours, peer))}
"""


def _beside(ours: Run, peer: Run) -> list[str]:
    names = {
        "kept": "rows to train on",
        "held_out": "rows held out",
        "near_duplicates": "near duplicates",
        "tokens": "tokens",
        "packed_rows": "packed rows",
    }
    return [f"| {name} | {ours.made[key]:,} | {peer.made[key]:,} |" for key, name in names.items()]


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


SECTION = Section("Data", _measure, _add_options)
