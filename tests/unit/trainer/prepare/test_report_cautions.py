"""What the report warns of, and the plan that it tells."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_trainer.config import RunConfig
from finetune_trainer.prepare.report.cautions import cautions
from finetune_trainer.prepare.report.page import duration, short
from finetune_trainer.prepare.report.plan import plan_facts

CALM: dict[str, Any] = {
    "volume": {
        "kept": 1000,
        "inEpoch": 1000,
        "heldOut": 50,
        "heldOutRowsInTrain": 0,
        "general": 20,
        "generalRowsInTrain": 0,
        "truncated": 0,
        "tokens": 10_000,
        "supervisedTokens": 4000,
    },
    "packing": {"sequenceLength": 512},
    "sources": [{"name": "a"}, {"name": "b", "drawn": 400, "epochs": 3.9}],
    "rules": [{"rule": "nearDuplicates", "policy": "Report"}],
    "balance": [
        {
            "kind": "source",
            "name": "source",
            "rows": 1000,
            "distinct": 2,
            "missing": 0,
            "values": [{"value": "a", "rows": 600}, {"value": "b", "rows": 400}],
        },
        {
            "kind": "column",
            "name": "label",
            "rows": 1000,
            "distinct": 3,
            "missing": 10,
            "values": [{"value": "yes", "rows": 500}, {"value": "no", "rows": 490}],
        },
    ],
    "terms": [
        {"name": "who", "rows": 90, "terms": [{"term": n, "rows": 50} for n in ("he", "she")]}
    ],
    "diversity": {
        "answers": {"rows": 1000, "beginnings": [{"words": "i am", "rows": 100}]},
        "nearDuplicates": {"largest": 3},
        "coverage": {"prompts": 50, "unlike": 1},
    },
    "plan": {"steps": 400},
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    facts: Any = copy.deepcopy(CALM)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = facts
    for part in parents:
        place = place[part]
    place[last] = value
    result: dict[str, Any] = facts
    return result


def test_data_without_a_fault_is_warned_of_nothing() -> None:
    assert cautions(CALM) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("balance.0.values.0.rows", 820, "82 % of the rows come from one source, a"),
        ("sources.1.epochs", 4.0, "an epoch draws each row of b 4 times, by its weight"),
        ("sources.1.drawn", 0, "the weight of b is so low that none of its rows is drawn"),
        ("balance.1.values.1.rows", 900, "90 % of the rows have one label, 'no'"),
        ("balance.1.missing", 300, "30 % of the rows have no label"),
        ("volume.heldOutRowsInTrain", 3, "3 of 50 held-out rows stand in the training rows, too"),
        ("volume.generalRowsInTrain", 2, "2 of 20 general rows stand in the training rows, too"),
        ("volume.truncated", 80, "8 % of the rows lose their end at 512 tokens"),
        (
            "volume.supervisedTokens",
            90,
            "only less than 1 % of the tokens are learnt; the others are only read",
        ),
        ("plan.steps", 1, "training has only 1 optimizer step"),
        ("terms.0.terms.0.rows", 300, "who: 'he' is in 300 rows, 'she' in 50"),
        ("terms.0.terms.0.rows", 0, "who: 'she' is in 50 rows, 'he' in none"),
        ("terms.0.rows", 0, "no row has a term of the list who"),
        (
            "diversity.answers.beginnings.0.rows",
            400,
            "40 % of the answers begin with the same words",
        ),
        ("diversity.nearDuplicates.largest", 80, "80 rows are almost the same (8 % of all)"),
        (
            "diversity.coverage.unlike",
            20,
            "20 of 50 held-out prompts resemble nothing that is trained on",
        ),
    ],
)
def test_each_fault_has_its_sentence(path: str, value: Any, sentence: str) -> None:
    assert cautions(with_change(path, value)) == [sentence]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("balance.0.distinct", 1),
        ("diversity.coverage", None),
        ("diversity.answers.beginnings", []),
        ("terms", []),
        ("volume.heldOut", 0),
    ],
)
def test_what_is_not_there_is_no_fault(path: str, value: Any) -> None:
    assert cautions(with_change(path, value)) == []


def test_sentences_have_a_bound_whatever_a_value_is_called() -> None:
    facts = with_change("balance.1.values.0", {"value": "x" * 5000, "rows": 900})
    (sentence,) = cautions(facts)
    assert len(sentence) < 100


def config(**training: Any) -> RunConfig:
    settings = {"microBatchSize": 2, "accumulation": 4, "learningRate": 1e-4, **training}
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"path": "m"},
            "data": {"train": [], "sequenceLength": 256},
            "method": {"lora": {}},
            "training": settings,
            "zeroStage": 2,
            "evaluation": {"everySteps": 10},
            "workers": {"count": 2, "ranksPerWorker": 1, "device": "GPU"},
        }
    )


def test_the_plan_counts_steps_and_operations() -> None:
    plan = plan_facts(config(epochs=2), 10**9, sequences=160, tokens=40_000, eval_tokens=1000)
    assert (plan["globalBatchSize"], plan["stepsPerEpoch"], plan["steps"]) == (16, 10, 20)
    assert plan["tokensPerStep"] == 4000
    assert plan["tokens"] == 80_000
    # the untouched model, after step 10, and the last
    assert plan["evaluations"] == 3
    assert plan["flops"] == 4 * 1e9 * 80_000 + 2 * 1e9 * 3000
    hundred = next(time for time in plan["times"] if time["teraflops"] == 100)
    assert hundred["seconds"] == round(plan["flops"] / 1e14 / 2)


def test_steps_may_be_fewer_than_an_epoch_has() -> None:
    plan = plan_facts(config(steps=5), 10**9, sequences=160, tokens=40_000, eval_tokens=0)
    assert (plan["epochs"], plan["tokens"], plan["evaluations"]) == (0.5, 20_000, 0)


def test_figures_are_written_for_people() -> None:
    assert [short(n) for n in (12, 1234, 5.678e9, 2.24e18)] == ["12", "1.23 k", "5.68 G", "2.24 E"]
    assert [duration(s) for s in (3, 600, 9000, 4e5)] == [
        "under a minute",
        "10 min",
        "2.5 h",
        "4.6 days",
    ]
