"""The table of answers: what was asked, what was expected, what the model said before and after.

One JSON object a row, and the same as a page that loads nothing from anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.judging.decode import Answer
from finetune_trainer.judging.prompts import Prompt
from finetune_trainer.judging.scores import NAMES, Scores

ANSWERS = "answers.jsonl"
PAGE = "answers.html"
TITLES = {
    "bleu": "BLEU",
    "chrF": "chrF",
    "rougeL": "ROUGE-L",
    "exactMatch": "exact match",
    "regexMatch": "regex found",
    "jsonValid": "valid JSON",
}
_TEMPLATE = Path(__file__).with_name("page.html.j2")


def spoken(texts: Sequence[str], answers: Sequence[Answer], scores: Scores) -> list[dict[str, Any]]:
    """Each answer with its own scores; ``cut``: it was not over in time."""
    return [
        {"text": text, **({"cut": True} if answer.cut else {}), "scores": row}
        for text, answer, row in zip(texts, answers, scores.rows, strict=True)
    ]


def table(
    prompts: Sequence[Prompt],
    base: Sequence[dict[str, Any]] | None,
    tuned: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """``base`` is None where the untouched model was not asked."""
    nobody: list[dict[str, Any] | None] = [None] * len(prompts)
    return [
        {
            "place": prompt.place,
            "prompt": list(prompt.messages),
            "reference": prompt.reference,
            **({"base": was} if was else {}),
            "tuned": now,
        }
        for prompt, was, now in zip(prompts, base or nobody, tuned, strict=True)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file atomically. Raises ``OSError``."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    _replace(path, text)


def read_rows(path: Path, count: int | None = None) -> list[dict[str, Any]] | None:
    """The rows of a file, if it is there and has so many. ``count`` None: any number."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except (OSError, ValueError):
        return None
    return rows if count in (None, len(rows)) else None


def write_page(path: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """``facts``: job, step, maxNewTokens, metrics (with baseline) and signatures. Raises
    ``OSError``."""
    import jinja2  # only the last step needs it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.4g}"
    metrics, baseline = facts["metrics"], facts["metrics"].get("baseline") or {}
    scores = [
        {
            "title": TITLES[name],
            "base": baseline.get(name),
            "tuned": metrics[name],
            "signature": facts["signatures"].get(name, ""),
        }
        for name in NAMES.values()
        if name in metrics
    ]
    template = environment.from_string(_TEMPLATE.read_text())
    _replace(path, template.render(rows=rows, scores=scores, titles=TITLES, **facts))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
