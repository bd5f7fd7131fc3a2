"""Rows that the runs of ``curves`` learn from: text of this repository."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quickstart.dataset import DATA, TRAIN_FILE

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = {"prose": 16, "code": 12, "chat": 48}
"""Rows by text, if a run says no other number."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a run learns from and is judged by."""

    text: str
    """``prose``, ``code`` or ``chat``."""
    count: int
    """Rows to train on."""
    held: int | None = None
    """Rows held out; None: as ``HELD_OUT`` has it."""
    held_text: str | None = None
    """Where held-out rows are of another kind."""
    wrong: float = 0.0
    """Chat: share of the training rows that have the answer of another."""

    @property
    def held_from(self) -> str:
        return self.held_text or self.text

    @property
    def held_count(self) -> int:
        return self.held or HELD_OUT[self.held_from]

    def describe(self) -> str:
        wrong = f", {self.wrong:.0%} of the answers wrong" if self.wrong else ""
        held = f"{self.held_count} of {self.held_from} held out"
        return f"{self.count} rows of {self.text}{wrong}; {held}"


def rows_of(wish: Rows) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, which are the same for every number of the former."""
    held = all_rows(wish.held_from)[: wish.held_count]
    # Behind all that any run holds out.
    rows = all_rows(wish.text)[HELD_OUT[wish.text] :][: wish.count]
    if len(rows) < wish.count:
        raise ValueError(f"{wish.text} has no {wish.count} rows to train on")
    return _with_wrong_answers(rows, wish.wrong), held


@cache
def all_rows(text: str) -> list[Row]:
    """In an order that says nothing."""
    if text == "chat":
        rows = [json.loads(line) for line in (DATA / TRAIN_FILE).read_text().splitlines()]
    elif text == "prose":
        pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
        rows = _pieces(pages, "\n\n")
    else:
        rows = _pieces(sorted((ROOT / "trainer_image").rglob("*.py")), "\n\n\n")
    random.Random(1).shuffle(rows)  # noqa: S311 - an order
    return rows


def _pieces(files: list[Path], between: str) -> list[Row]:
    """Paragraphs, or definitions; without the shortest."""
    pieces = [piece.strip() for file in files for piece in file.read_text().split(between)]
    return [{"text": piece} for piece in dict.fromkeys(pieces) if len(piece) >= 100]


def _with_wrong_answers(rows: list[Row], share: float) -> list[Row]:
    """The first ones of the rows get the answers of each other."""
    wrong = rows[: round(share * len(rows))]
    answers = [row["messages"][-1] for row in wrong]
    turned = answers[len(answers) // 2 :] + answers[: len(answers) // 2]
    changed = [
        {"messages": [*row["messages"][:-1], answer]}
        for row, answer in zip(wrong, turned, strict=True)
    ]
    return changed + rows[len(wrong) :]
