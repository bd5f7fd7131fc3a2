"""The table of answers as lines and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.judging import table
from finetune_trainer.judging.decode import Answer
from finetune_trainer.judging.prompts import Prompt
from finetune_trainer.judging.scores import NAMES, score

EVIL = "<script>alert('x')</script> & \u202e 你好 \udc80"
PROMPTS = [
    Prompt(
        "held line 1", ({"role": "user", "content": "What is a gang?"},), (1,), "A set of pods."
    ),
    Prompt("held line 2", ({"role": "user", "content": EVIL},), (2, 3), EVIL[:-1]),
]
FACTS: dict[str, Any] = {"job": "bot <b>", "step": 40, "maxNewTokens": 8}


def spoken(*texts: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    scores = score(list(NAMES), texts, [prompt.reference for prompt in PROMPTS], "pods")
    answers = [Answer((), cut=False), Answer((), cut=True)]
    return table.spoken(texts, answers, scores), {**scores.values, "sig": scores.signatures}


def test_a_row_holds_everything_that_was_said(tmp_path: Path) -> None:
    base, _ = spoken("I do not know.", "")
    tuned, _ = spoken("A set of pods.", "你好")
    rows = table.table(PROMPTS, base, tuned)
    path = tmp_path / "deep/answers.jsonl"
    table.write_rows(path, rows)
    assert [path.name for path in path.parent.iterdir()] == ["answers.jsonl"]
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["place"] == "held line 1" and first["reference"] == "A set of pods."
    assert first["prompt"] == [{"role": "user", "content": "What is a gang?"}]
    assert (first["base"]["scores"]["exactMatch"], first["tuned"]["scores"]["exactMatch"]) == (0, 1)
    assert (first["tuned"].get("cut"), second["tuned"]["cut"]) == (None, True)


def test_the_page_shows_all_of_it_and_loads_nothing(tmp_path: Path) -> None:
    base, before = spoken("I do not know.", "")
    tuned, after = spoken("A set of pods.", EVIL)
    signatures = after.pop("sig")
    del before["sig"]
    facts = {**FACTS, "metrics": {**after, "baseline": before}, "signatures": signatures}
    table.write_page(tmp_path / "answers.html", table.table(PROMPTS, base, tuned), facts)
    page = (tmp_path / "answers.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "bot &lt;b&gt;" in page
    assert not re.search(r"https?://|src=|url\(", page)
    shown = ("What is a gang?", "I do not know.", "A set of pods.", "cut off", "after step 40")
    around = ("nrefs:1|case:mixed", "ROUGE-L", "and by the untouched model", "(no text)")
    for text in (*shown, *around):
        assert text in page, text
    assert page.count('<section class="row">') == 2


def test_without_the_base_model_the_page_has_two_columns(tmp_path: Path) -> None:
    tuned, after = spoken("A set of pods.", "")
    facts = {**FACTS, "metrics": after, "signatures": after.pop("sig")}
    rows = table.table(PROMPTS, None, tuned)
    assert all("base" not in row for row in rows)
    table.write_page(tmp_path / "answers.html", rows, facts)
    page = (tmp_path / "answers.html").read_text()
    assert "untouched" not in page and 'class="answers two"' in page


@pytest.mark.parametrize("content", [None, "", "{", '{"text": "one"}\n'])
def test_base_answers_that_are_not_there_are_left_out(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "base.jsonl"
    if content is not None:
        path.write_text(content)
    assert table.read_rows(path, 2) is None
