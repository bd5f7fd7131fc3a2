"""What the stages said last becomes model, data, numbers and artifact."""

from __future__ import annotations

import pytest
from builders import (
    UID,
    ended_pod,
    failure_words,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_spec,
    status_in,
)
from unit.operator.status.cases import COMPLETE, FAILED, P, T, X, ready_gang, train

from finetune_operator.api.types import Checkpoints, LatestCheckpoint, Phase
from finetune_operator.status import decide


def test_prepares_last_words_become_model_data_and_steps() -> None:
    words = last_words(
        P,
        steps=42,
        model={"architecture": "Llama", "parameters": 7, "digest": "sha256:a"},
        data={
            "rows": 10,
            "kept": 9,
            "changed": 2,
            "dropped": {"emptyAnswers": 1},
            "reported": {"nearDuplicates": 3},
            "supervisedTokens": 5,
            "warnings": ["82 % of the rows come from one source, a", "2 rows lose their end"],
            "sources": [{"field": "spec.data.train[0]", "format": "Chat", "rows": 10, "kept": 9}],
        },
    )
    status = status_in(P, resolved=make_facts().known_plan.resolved)
    facts = make_facts(
        status, jobs=(make_child_job(P, **COMPLETE),), pods=(ended_pod(0, P, words=words),)
    )
    decided = decide(facts).status
    assert decided["model"]["architecture"] == "Llama"
    assert decided["data"] == {
        "rows": 10,
        "kept": 9,
        "changed": 2,
        "dropped": {"emptyAnswers": 1},
        "reported": {"nearDuplicates": 3},
        "supervisedTokens": 5,
        "warnings": ["82 % of the rows come from one source, a", "2 rows lose their end"],
        "sources": [{"field": "spec.data.train[0]", "format": "Chat", "rows": 10, "kept": 9}],
        "reportPath": "team-a/11111111-2222-3333-4444-555555555555/data/report.html",
        "rejectsPath": "team-a/11111111-2222-3333-4444-555555555555/data/rejects.jsonl",
    }
    assert decided["resolved"]["steps"] == 42
    assert decided["attempt"] == 0
    condition = main_condition(decided, "DatasetValid")
    assert (condition["status"], condition["message"]) == (
        "True",
        "model and data are prepared; worth a look: 82 % of the rows come from one source, a "
        "(and 1 more in status.data.warnings)",
    )


def test_data_of_another_job_is_named_as_such() -> None:
    words = last_words(P, data={"rows": 10, "kept": 9, "preparedBy": "earlier"})
    status = status_in(P, resolved=make_facts().known_plan.resolved)
    facts = make_facts(
        status, jobs=(make_child_job(P, **COMPLETE),), pods=(ended_pod(0, P, words=words),)
    )
    decided = decide(facts).status
    assert decided["data"]["preparedBy"] == "earlier"
    assert main_condition(decided, "DatasetValid")["message"] == (
        "model and data are prepared; the data is that of FineTuneJob earlier: same model, rows "
        "and settings"
    )


def test_final_numbers_come_from_the_last_words_of_rank_zero_even_if_its_pod_is_gone() -> None:
    metrics = {"loss": 1.25, "evalLoss": 1.5, "perplexity": 4.48, "baseline": {"evalLoss": 2.5}}
    words = last_words(T, step=90, steps=90, metrics=metrics)
    facts = make_facts(ready_gang(), jobs=train(**COMPLETE), evidence=(ended_pod(0, words=words),))
    decided = decide(facts).status
    assert decided["metrics"]["evalLoss"] == "1.5"
    assert decided["metrics"]["baseline"] == {"evalLoss": "2.5"}
    assert decided["progress"]["percent"] == 100


def test_export_repeats_the_numbers_of_a_training_whose_pods_were_lost() -> None:
    words = last_words(
        X,
        artifact={
            "formats": ["Merged"],
            "digest": "sha256:b",
            "bytes": 5,
            "maxLogitDifference": 2e-6,
            "smokeTest": {"prompt": "Who?", "answer": "I, with hf_" + "a" * 34, "tokens": 3},
        },
        train={"metrics": {"loss": 0.5}, "step": 90, "steps": 90},
    )
    facts = make_facts(
        status_in(X), jobs=(make_child_job(X, **COMPLETE),), pods=(ended_pod(0, X, words=words),)
    )
    decided = decide(facts).status
    assert decided["metrics"]["loss"] == "0.5"
    assert decided["artifact"] == {
        "uri": f"pvc://work/team-a/{UID}/output",
        "path": f"team-a/{UID}/output",
        "digest": "sha256:b",
        "bytes": 5,
        "formats": ["Merged"],
        "smokeTest": {"prompt": "Who?", "answer": "I, with [redacted]", "tokens": 3},
        "servingPath": f"team-a/{UID}/output/serving.yaml",
    }
    assert main_condition(decided, "Published")["message"] == (
        "the result was loaded again, compared (logits differ by 2e-06 at most) and asked 'Who?': "
        "it said 'I, with [redacted]'"
    )


@pytest.mark.parametrize(("wish", "told"), [("Keep", True), ("Delete", False)])
def test_checkpoints_that_went_with_success_are_not_told_any_more(wish: str, told: bool) -> None:
    saved = Checkpoints(latest=LatestCheckpoint(step=5, bytes=1, verified=True))
    through = status_in(X, phase=Phase.EXPORTING, checkpoints=saved)
    spec = make_spec(checkpoint={"afterSuccess": wish})
    ended = decide(make_facts(through, jobs=(make_child_job(X, **COMPLETE),), spec=spec))
    assert ended.status["phase"] == "Succeeded"
    assert ("checkpoints" in ended.status) == told


def test_half_of_a_character_in_a_pods_words_stops_no_pass() -> None:
    """JSON may say it, and no status and no Event can hold it."""
    words = failure_words(
        P, **{"class": "BadData", "exitCode": 65}, message="no column \ud83d", hint="has r\udce9"
    )
    facts = make_facts(
        status_in(P, resolved=make_facts().known_plan.resolved),
        jobs=(make_child_job(P, **FAILED),),
        pods=(ended_pod(0, P, code=65, words=words),),
    )
    failure = decide(facts).status["failure"]
    assert (failure["message"], failure["hint"]) == ("no column ?", "has r?")
