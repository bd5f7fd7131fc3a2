"""``python -m benchmarks.cleaning [--rows N]``: reading and cleaning of short rows, in one process.

Prints rows per second and the largest resident memory; pages of mapped files are told apart,
because the kernel takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets  # type: ignore[import-untyped]

from finetune_trainer.config import Data
from finetune_trainer.prepare.cleaning.rejects import Ledger
from finetune_trainer.prepare.splits import read_sides

_WORDS = tuple(f"word{n}" for n in range(5000))
_REPEATED = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", arguments.rows)
        measure(folder, arguments.rows)


def write_rows(path: Path, count: int) -> None:
    """Chats of about 150 characters; 2 % repeat an earlier one exactly, 2 % almost."""
    rng = random.Random(0)  # noqa: S311 - rows to measure with
    with path.open("w") as file:
        recent: list[list[str]] = []
        for _ in range(count):
            chance = rng.random()
            words = rng.choices(_WORDS, k=20)
            if recent and chance < 2 * _REPEATED:
                words = list(rng.choice(recent))
                if chance < _REPEATED:
                    words[-1] = "other"
            recent = [*recent[-999:], words]
            turns = [("user", words[:8]), ("assistant", words[8:])]
            messages = [{"role": role, "content": " ".join(part)} for role, part in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(folder: Path, count: int) -> None:
    """Read and clean the rows, and print what it took."""
    source = {"name": "rows", "field": "spec.data.train[0]", "path": str(folder / "rows.jsonl")}
    data = Data.model_validate({"train": [source], "sequenceLength": 1024})
    scratch = folder / "scratch"
    scratch.mkdir()
    ledger = Ledger(folder / "rejects.jsonl", data.cleaning)
    peaks: dict[str, int] = {}
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peaks, over))
    watcher.start()
    before, started = dict(memory()), time.monotonic()
    sides = read_sides(data, scratch, ledger)
    seconds = time.monotonic() - started
    over.set()
    watcher.join()
    print(
        f"{count} rows of {(folder / 'rows.jsonl').stat().st_size / count:.0f} bytes in "
        f"{seconds:.0f} s: {count / seconds:.0f} rows/s; {len(sides.train.samples)} + "
        f"{len(sides.held.samples)} kept\n"
        f"memory of its own: {before['RssAnon'] / 1024:.0f} MiB before, at most "
        f"{peaks['RssAnon'] / 1024:.0f} MiB; pages of mapped files at most "
        f"{peaks['RssFile'] / 1024:.0f} MiB"
    )
    print({account.field: account.summary() for account in sides.train.accounts})


def memory() -> Iterator[tuple[str, int]]:
    """RssAnon and RssFile of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            yield name, int(value.split()[0])


def _watch(peaks: dict[str, int], over: threading.Event) -> None:
    while not over.wait(0.05):
        for name, value in memory():
            peaks[name] = max(peaks.get(name, 0), value)


if __name__ == "__main__":
    main()
