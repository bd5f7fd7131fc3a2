"""Chat rows from the facts: ``train.jsonl``, ``eval.jsonl`` and the control.

``python -m quickstart.dataset`` rewrites the committed files; the same facts give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from quickstart.facts import Fact, FactBook, load_facts

DATA = Path(__file__).with_name("data")
TRAIN_FILE = "train.jsonl"
EVAL_FILE = "eval.jsonl"


class Message(TypedDict):
    role: str
    content: str


class Row(TypedDict):
    messages: list[Message]


@dataclass(frozen=True)
class Question:
    """A held-out question with the key fact that a right answer contains."""

    prompt: str
    key: str
    reference: str


def train_rows(book: FactBook) -> list[Row]:
    """Every training wording with its fact's answer.

    Wording by wording, so that neighbouring rows are about different facts.
    """
    wordings = max(len(fact.ask) for fact in book.facts)
    return [
        _row(book.system, fact.ask[wording], fact.answer)
        for wording in range(wordings)
        for fact in book.facts
        if wording < len(fact.ask)
    ]


def eval_rows(book: FactBook) -> list[Row]:
    """Every held-out question with its fact's answer."""
    return [_row(book.system, asked.prompt, asked.reference) for asked in questions(book)]


def questions(book: FactBook) -> list[Question]:
    """The held-out question of every fact, from the set that the book asks."""
    return [Question(fact.held_out[book.asked], fact.key, fact.answer) for fact in book.facts]


def shuffled_answers(book: FactBook) -> FactBook:
    """The control: every fact is trained with another fact's answer.

    The style of the data stays, the knowledge goes. Keys stay with their questions, so a job on
    this data must fail the proof. Answers move by half the list: related facts stand together in
    the file, and none may keep its own answer.
    """
    facts = book.facts
    shift = len(facts) // 2
    return replace(
        book,
        facts=tuple(
            replace(fact, answer=facts[(place + shift) % len(facts)].answer)
            for place, fact in enumerate(facts)
        ),
    )


def shortened(book: FactBook, count: int) -> FactBook:
    """``count`` facts spread evenly over the file: a smaller job of the same kind."""
    if not 1 <= count <= len(book.facts):
        raise ValueError(f"between 1 and {len(book.facts)} facts, not {count}")
    chosen: list[Fact] = [book.facts[place * len(book.facts) // count] for place in range(count)]
    return replace(book, facts=tuple(chosen))


def write(folder: Path, *, train: FactBook, held_out: FactBook) -> None:
    """Write both files; ``train`` and ``held_out`` differ only for the control."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAIN_FILE).write_text(jsonl(train_rows(train)), encoding="utf-8")
    (folder / EVAL_FILE).write_text(jsonl(eval_rows(held_out)), encoding="utf-8")


def _row(system: str, prompt: str, answer: str) -> Row:
    return {
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
    }


def jsonl(rows: Iterable[Row]) -> str:
    """One row to a line, as the files hold them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    whole = load_facts()
    write(DATA, train=whole, held_out=whole)
