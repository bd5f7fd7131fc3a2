"""Scores source by source, and of general rows, in a real gang against plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job, starting_model
from unit.trainer.train.tiny import random_rows, row_lengths
from unit.trainer.train.workers import score, train

GENERAL = row_lengths(9, 5)
HELD = row_lengths(8, 3)


def losses_of(job: Job, seed: int, lengths: list[list[int]]) -> list[tuple[float, int]]:
    """Summed loss and targets of the untouched model on each row, sample by sample."""
    model = starting_model(job).eval()
    found = []
    for row in random_rows(seed, lengths, supervised=job.supervised):
        total, count = 0.0, 0
        for segment in row:
            ids = torch.from_numpy(segment.input_ids.astype(np.int64))[None]
            targets = torch.from_numpy(segment.supervised.astype(bool))[1:]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].double()
            parts = functional.cross_entropy(logits, ids[0, 1:], reduction="none")[targets]
            total, count = total + float(parts.sum()), count + int(targets.sum())
        found.append((total, count))
    return found


def mean(rows: list[tuple[float, int]]) -> float:
    return sum(total for total, _ in rows) / sum(count for _, count in rows)


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_source_has_the_loss_of_its_own_rows(ranks: int) -> None:
    job = Job(lengths=[], eval_lengths=GENERAL, config={"training": {"microBatchSize": 2}})
    parts = run_gang(score, ranks, job)[0]["parts"]
    rows = losses_of(job, 2, GENERAL)
    for number, (loss, tokens) in enumerate(parts):
        own = rows[number::2]
        assert loss == pytest.approx(mean(own), rel=1e-6)
        assert tokens == sum(count for _, count in own)
    assert abs(parts[0][0] - parts[1][0]) > 1e-3, "another row would show"


def test_general_rows_are_scored_before_at_each_evaluation_and_of_the_best(tmp_path: Path) -> None:
    overfitting = {"action": "StopKeepBest", "patience": 2}
    job = Job(
        lengths=row_lengths(1, 6),
        eval_lengths=HELD,
        general_lengths=GENERAL,
        config={
            "evaluation": {"everySteps": 1, "overfitting": overfitting},
            "training": {"steps": 12, "learningRate": 0.05, "accumulation": 1},
        },
    )
    state = run_gang(train, 2, job, tmp_path)[0]["state"]
    path = tmp_path / "attempts/0/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [line for line in lines if "evalLoss" in line]
    metrics, base = state["metrics"], state["metrics"]["baseline"]

    assert base["generalLoss"] == pytest.approx(mean(losses_of(job, 3, GENERAL)), rel=1e-6)
    assert base["generalPerplexity"] == pytest.approx(math.exp(base["generalLoss"]))
    assert all("generalLoss" in line for line in told) and len(told) == state["step"] + 2
    best = next(line for line in told if line["step"] == state["best"]["step"])
    assert told[-1]["restored"] == state["best"]["step"]
    assert metrics["generalLoss"] == pytest.approx(best["generalLoss"], rel=1e-9)
    assert metrics["generalLoss"] != base["generalLoss"]
    entries: list[dict[str, Any]] = metrics["datasets"]
    assert [(e["role"], e["name"]) for e in entries] == [
        (role, name) for role in ("Eval", "General") for name in ("first", "second")
    ]
    for role, loss in (("Eval", metrics["evalLoss"]), ("General", metrics["generalLoss"])):
        own = [(e["loss"] * e["tokens"], e["tokens"]) for e in entries if e["role"] == role]
        assert mean(own) == pytest.approx(loss, rel=1e-5)
    assert [e["baseline"] for e in entries] == [e["baseline"] for e in told[0]["datasets"]]
    assert all(e["baseline"]["loss"] != e["loss"] for e in entries)


PAIRS = {
    "name": "pronouns",
    "terms": ["he", "she"],
    "prompts": [{"prompt": "p", "answer": "{term}"}],
}


def test_paired_prompts_are_compared_before_and_after(tmp_path: Path) -> None:
    """Four rows, two pairs in two lists; the rows stand for whatever prepare made of them."""
    lengths = [[9], [12], [7], [20]]
    wish = [PAIRS, {**PAIRS, "name": "names"}]
    job = Job(
        lengths=row_lengths(1, 6),
        eval_lengths=HELD,
        paired_lengths=lengths,
        config={"evaluation": {"pairedPrompts": wish}, "training": {"steps": 3}},
    )
    state = run_gang(train, 2, job, tmp_path)[0]["state"]
    told = state["metrics"]["pairedPrompts"]
    sums = [total for total, _ in losses_of(job, 4, lengths)]
    expected = [-(sums[0] - sums[1]), -(sums[2] - sums[3])]
    assert [each["name"] for each in told] == ["pronouns", "names"]
    for each, difference in zip(told, expected, strict=True):
        base = each["baseline"]
        assert base["difference"] == pytest.approx(difference, rel=1e-5)
        assert base["absoluteDifference"] == abs(base["difference"])
        assert base["firstLikelier"] == float(difference > 0)
        assert each["pairs"] == 1 and each["difference"] != base["difference"]
    path = tmp_path / "attempts/0/paired-prompts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["list"] for row in rows] == ["pronouns", "names"]
    for row, difference, each in zip(rows, expected, told, strict=True):
        assert row["base"] == pytest.approx(difference, rel=1e-6)
        assert row["tuned"] == pytest.approx(each["difference"], rel=1e-5)


def test_what_is_scored_besides_changes_nothing_of_what_is_learnt() -> None:
    evaluation = {"evaluation": {"everySteps": 1}, "training": {"steps": 3, "dropout": 0.1}}
    both = [
        run_gang(train, 2, Job(row_lengths(1, 6), HELD, evaluation, general_lengths=general))
        for general in ([], GENERAL)
    ]
    assert both[0][0]["steps"] == both[1][0]["steps"]
