"""Rows through reading and cleaning, without a model: what the tests of the rules look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import Data
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.splits import locate_sides, read_sides


@dataclass
class Cleaned:
    train: list[dict[str, Any]]
    held: list[dict[str, Any]]
    leaked: int
    general: list[dict[str, Any]]
    general_leaked: int
    accounts: list[Account]
    rejects: list[dict[str, Any]]
    clusters: list[int]

    def lines(self, rule: str) -> list[int]:
        """Lines of the first training source that fell under a rule."""
        return [r["line"] for r in self.rejects if r["rule"] == rule and "train[0]" in r["source"]]

    def answers(self) -> list[str]:
        return [sample["messages"][-1]["content"] for sample in self.train]


def source(folder: Path, name: str, rows: list[Any], side: str = "train", number: int = 0) -> Any:
    """A source of JSON lines with these rows, written to ``folder``."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return {"name": name, "field": f"spec.data.{side}[{number}]", "path": str(path)}


def clean_rows(
    folder: Path,
    rows: list[Any],
    held: list[Any] | None = None,
    general: list[Any] | None = None,
    fields: dict[str, str] | None = None,
    **settings: Any,
) -> Cleaned:
    """Read and clean ``rows``; ``settings`` go below ``spec.data``."""
    sources = {"train": [source(folder, "train", rows)]}
    if held is not None:
        sources["eval"] = [source(folder, "eval", held, "eval")]
    if general is not None:
        sources["general"] = [source(folder, "general", general, "general")]
    for part in sources.values():
        part[0]["fields"] = fields or {}
    data = Data.model_validate({"sequenceLength": 64, "evalFraction": 0, **sources, **settings})
    return clean_data(folder, data)


def clean_data(folder: Path, data: Data) -> Cleaned:
    scratch = folder / "scratch"
    scratch.mkdir()
    ledger = Ledger(folder / "rejects.jsonl", data.cleaning)
    sides = read_sides(data, locate_sides(data, scratch), scratch, ledger)
    train, held, general = sides.train, sides.held, sides.general
    ledger.close()
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    accounts = [*train.accounts, *(held.accounts if data.eval else [])]
    return Cleaned(
        list(train.samples),
        list(held.samples),
        sides.leaked,
        list(general.samples) if general else [],
        sides.general_leaked,
        accounts,
        rejects,
        sides.clusters,
    )
