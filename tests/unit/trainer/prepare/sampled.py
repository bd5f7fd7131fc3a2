"""One source through reading, without splits or cleaning rules: its samples and its rejects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.prepare.cleaning.rejects import Ledger
from finetune_trainer.prepare.samples import SampleReader
from finetune_trainer.prepare.sources import locate

CHAT = {
    "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
}
PAIR = {"prompt": "What?", "response": "That."}
CLEANING = Cleaning()


def source(path: Path, **settings: Any) -> DataSource:
    return DataSource(name="facts", field="spec.data.train[0]", path=str(path), **settings)


def read(
    path: Path, cleaning: Cleaning = CLEANING, **settings: Any
) -> tuple[list[dict[str, Any]], SampleReader]:
    wanted = source(path, **settings)
    ledger = Ledger(path.with_name("rejects.jsonl"), cleaning)
    located = locate(wanted, path.parent / "scratch", 10**6)
    reader = SampleReader([(wanted, located)], ledger, cleaning)
    samples = list(reader)
    ledger.close()
    return samples, reader


def rejects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_name("rejects.jsonl").read_text().splitlines()]


def turns(sample: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in sample["messages"]]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def messages(*turns: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
