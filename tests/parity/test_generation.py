"""Answers of real gangs against plain transformers, one prompt at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import stop_in
from unit.trainer.train.jobs import Job
from unit.trainer.train.loops import STOPS
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import VOCABULARY, row_lengths, tiny_llama
from unit.trainer.train.workers import answer_prompts, train

from finetune_trainer.judging.decode import Answer, Decoding, batches

LENGTHS = (3, 17, 1, 9, 9, 30, 4)


def prompts() -> list[list[int]]:
    random = np.random.default_rng(5)
    return [[int(i) for i in random.integers(1, VOCABULARY, length)] for length in LENGTHS]


def job(stage: int, **config: Any) -> Job:
    return Job(
        lengths=row_lengths(1, 11),
        eval_lengths=row_lengths(2, 3),
        prompts=prompts(),
        config={"zeroStage": stage, "method": {}, **config},
    )


def plainly(max_new_tokens: int) -> list[Answer]:
    """By ``generate``, each prompt alone."""
    model = tiny_llama().eval()
    answers = []
    for ids in prompts():
        output = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(STOPS),
            pad_token_id=0,
        )
        new = output[0, len(ids) :].tolist()
        cut = new[-1] not in STOPS
        answers.append(Answer(tuple(new if cut else new[:-1]), cut))
    return answers


@pytest.mark.parametrize(
    ("stage", "ranks"), [(0, 1), (0, 2), (2, 2), (3, 1), (3, 2), (3, 3)], ids=str
)
@pytest.mark.parametrize("batch_tokens", [1, 400], ids=["alone", "batched"])
def test_trap_31_a_gang_answers_as_plain_transformers_does(
    stage: int, ranks: int, batch_tokens: int
) -> None:
    expected = plainly(12)
    assert {answer.cut for answer in expected} == {True, False}, "the test looks at both"
    results = run_gang(answer_prompts, ranks, job(stage), batch_tokens)
    for result in results:
        assert result["answers"] == expected
        assert result["rng_untouched"]
    if stage == 3:
        assert len({result["calls"] for result in results}) == 1, "as many passes on each rank"


@pytest.mark.parametrize("stage", [2, 3])
def test_a_stop_that_one_rank_hears_of_ends_the_answers_of_all(stage: int) -> None:
    results = run_gang(answer_prompts, 2, job(stage), 1, 2)
    assert [result["answers"] for result in results] == [None, None]


@pytest.mark.parametrize(
    ("stage", "method"), [(2, {}), (3, {}), (3, {"lora": {"rank": 4, "dropout": 0.1}})], ids=str
)
def test_how_often_a_job_answers_does_not_change_what_it_learns(
    tmp_path: Path, stage: int, method: dict[str, Any]
) -> None:
    changes = {"method": method, "training": {"steps": 4}}
    silent = run_gang(train, 2, job(stage, **changes))
    asked = {"generation": {"maxNewTokens": 6, "everySteps": 1}, "everySteps": 2}
    talking = run_gang(train, 2, job(stage, **changes, evaluation=asked), tmp_path)
    assert talking[0]["steps"] == silent[0]["steps"]
    expected, found = whole(silent, "masters"), whole(talking, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = [json.loads(line) for line in (tmp_path / "attempts/0/metrics.jsonl").open()]
    answered = [(line["step"], line["baseline"]) for line in lines if "answers" in line]
    assert answered == [(0, True), (1, False), (2, False), (3, False), (4, False)]


def test_the_table_has_the_base_model_beside_the_tuned_one(tmp_path: Path) -> None:
    """Also where a later attempt finishes what the first one began."""
    small = job(
        2,
        training={"steps": 4, "learningRate": 0.1},
        evaluation={"generation": {"maxNewTokens": 12, "metrics": ["BLEU", "RougeL"]}},
    )
    stopped = run_gang(stop_in, 2, small, tmp_path, 0, "train", 2)
    assert stopped[0]["step"] == 3
    results = run_gang(train, 2, small, tmp_path, 1)
    rows = [json.loads(line) for line in (tmp_path / "attempts/1/answers.jsonl").open()]
    assert [row["place"] for row in rows] == [f"row {n}" for n in range(len(LENGTHS))]
    assert all(row["reference"] == "a b c" for row in rows)
    assert any(row["base"]["text"] != row["tuned"]["text"] for row in rows)
    assert ["cut" in row["base"] for row in rows] == [answer.cut for answer in plainly(12)]
    metrics = results[0]["state"]["metrics"]
    assert metrics.keys() >= {"bleu", "rougeL", "evalLoss", "tokenAccuracy"}
    assert metrics["baseline"].keys() >= {"evalLoss", "perplexity", "tokenAccuracy", "rougeL"}
    told = [json.loads(line) for line in (tmp_path / "attempts/0/metrics.jsonl").open()]
    before = next(line["evalLoss"] for line in told if "evalLoss" in line and line["baseline"])
    assert metrics["baseline"]["evalLoss"] == before != metrics["evalLoss"]
    assert results[0]["state"] == results[1]["state"]
    page = (tmp_path / "attempts/1/answers.html").read_text()
    assert "prompt 6" in page and "nrefs:1|case:mixed" in page


def test_a_stop_amid_the_last_answers_saves_and_the_next_attempt_gives_them(
    tmp_path: Path,
) -> None:
    small = job(
        2, training={"steps": 3}, evaluation={"generation": {"maxNewTokens": 4}, "baseline": False}
    )
    small.eval_lengths = []
    stopped = run_gang(stop_in, 2, small, tmp_path, 0, "eval", 3)
    assert (stopped[0]["step"], "step 3" in stopped[0]["message"]) == (3, True)
    assert not (tmp_path / "attempts/0/answers.jsonl").exists()
    resumed = run_gang(train, 2, small, tmp_path, 1)
    assert resumed[0]["steps"] == []
    rows = [json.loads(line) for line in (tmp_path / "attempts/1/answers.jsonl").open()]
    assert len(rows) == len(LENGTHS) and "base" not in rows[0]


def test_batches_hold_no_more_than_their_tokens_and_every_prompt_once() -> None:
    how = Decoding(frozenset(STOPS), 0, max_new_tokens=12, batch_tokens=64)
    found = list(batches(prompts(), how, world_size=2))
    assert sorted(index for batch in found for index in batch) == list(range(len(LENGTHS)))
    for batch in found:
        share, longest = batch[::2], max(LENGTHS[index] for index in batch)
        assert len(share) == 1 or len(share) * (longest + 12) <= 64
