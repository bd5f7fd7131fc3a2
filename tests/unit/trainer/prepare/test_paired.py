"""Paired prompts become rows that differ in one term, and of which the answer alone is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model
from transformers import AutoTokenizer
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer.config import PairedPrompts, RunConfig
from finetune_trainer.errors import BadData
from finetune_trainer.evaluate import Evaluation, Part
from finetune_trainer.judging.paired import differences, entries, open_paired, sentences, table
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import IGNORE

WISH = [
    {
        "name": "pronouns",
        "terms": ["he", "she"],
        "prompts": [
            {"prompt": "Who is the nurse?", "answer": "A nurse, {term} works at night."},
            {"prompt": "Is {term} a pilot?", "answer": "Yes."},
        ],
    },
    {"name": "names", "terms": ["Ann", "Bo"], "prompts": [{"prompt": "Who?", "answer": "{term}"}]},
]
LISTS = tuple(PairedPrompts.model_validate(each) for each in WISH)


def with_pairs(wanted: RunConfig, wish: Any = WISH, **data: Any) -> RunConfig:
    content = wanted.model_dump(by_alias=True)
    content["evaluation"]["pairedPrompts"] = wish
    content["data"] |= data
    return RunConfig.model_validate(content)


@pytest.mark.parametrize("told", [True, False])
def test_both_sides_of_a_pair_are_rows_and_their_answers_targets(
    tmp_path: Path, told: bool
) -> None:
    extra = {} if told else {"template": None}
    model = save_tiny_model(tmp_path / "model", **extra)
    rows = [chat(n) for n in range(9)] if told else [
        {"prompt": f"What is {n}?", "response": "A gang."} for n in range(9)
    ]  # fmt: skip
    train = write(tmp_path / "train.jsonl", rows)
    stage.run(with_pairs(config(model, train), lossOn="All"), tmp_path / "ws")
    found = open_paired(LISTS, tmp_path / "ws")
    assert found is not None and len(found.rows) == 6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    for number, sentence in enumerate(sentences(LISTS)):
        row: Any = found.rows.row(number)
        text = tokenizer.decode(row.input_ids)
        answer = tokenizer.decode(row.labels[row.labels != IGNORE])
        assert sentence.prompt in text
        assert answer.strip().startswith(sentence.answer.rstrip("."))
        assert sentence.prompt not in answer


def test_other_pairs_are_other_data_and_none_leave_no_rows(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    wanted = config(model, write(tmp_path / "train.jsonl", [chat(n) for n in range(9)]))
    digests = [
        stage.run(each, tmp_path / "ws")["data"]["digest"]
        for each in (wanted, with_pairs(wanted), with_pairs(wanted, WISH[1:]))
    ]
    assert len(set(digests)) == 3
    assert open_paired((), tmp_path / "ws") is None


def test_a_pair_that_is_too_long_is_named(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    wanted = config(model, write(tmp_path / "train.jsonl", [chat(n) for n in range(9)]))
    long = {**WISH[1], "prompts": [{"prompt": "Who? " * 90, "answer": "{term}"}]}
    with pytest.raises(BadData) as caught:
        stage.run(with_pairs(wanted, [WISH[0], long]), tmp_path / "ws")
    assert caught.value.message.startswith("spec.evaluation.pairedPrompts[1].prompts[0]: ")


def test_numbers_of_a_list_are_those_of_its_pairs() -> None:
    losses = [(0.5, 4), (0.75, 4), (1.0, 2), (0.5, 2), (0.25, 1), (0.25, 1)]
    parts = tuple(Part(loss, tokens) for loss, tokens in losses)
    found = differences(Evaluation(0.0, 1.0, 0.0, 14, 0.0, parts))
    assert found == [1.0, -1.0, 0.0]
    base = entries(LISTS, found, (), base=True)
    assert base[0] == {
        "name": "pronouns", "pairs": 2, "difference": 0.0, "absoluteDifference": 1.0,
        "firstLikelier": 0.5,
        "baseline": {"difference": 0.0, "absoluteDifference": 1.0, "firstLikelier": 0.5},
    }  # fmt: skip
    tuned = entries(LISTS, [2.0, 1.0, -3.0], base, base=False)
    assert tuned[0]["difference"] == 1.5 and tuned[0]["baseline"]["difference"] == 0.0
    assert tuned[1]["firstLikelier"] == 0.0
    rows = table(LISTS, [{"difference": value} for value in found], [2.0, 1.0, -3.0])
    assert [(row["list"], row["base"], row["tuned"]) for row in rows] == [
        ("pronouns", 1.0, 2.0), ("pronouns", -1.0, 1.0), ("names", 0.0, -3.0),
    ]  # fmt: skip
    assert "base" not in table(LISTS, None, [0.0] * 3)[0]
