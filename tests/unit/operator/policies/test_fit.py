"""What the trainer read from its losses becomes a condition, an Event, and a word at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import (
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_pod,
    status_in,
)

from finetune_operator.api.types import FineTuneJobStatus, StageName
from finetune_operator.reports import read_last_words, read_progress
from finetune_operator.status import decide

TRAIN, EXPORT = StageName.TRAIN, StageName.EXPORT
COMPLETE: dict[str, Any] = {"complete": True}


def report(finding: str | None, attempt: int = 0) -> Any:
    judgement = {"finding": finding, "message": "the loss rose; try more data"} if finding else None
    body = {"attempt": attempt, "updatedAt": 1795400000.5, "step": 9, "judgement": judgement}
    return read_progress(json.dumps(body).encode())


def training(finding: str | None, known: Any = None, attempt: int = 0) -> dict[str, Any]:
    facts = make_facts(
        FineTuneJobStatus.model_validate(known) if known else status_in(TRAIN),
        jobs=(make_child_job(TRAIN),),
        pods=(make_pod(0), make_pod(1)),
        progress=report(finding, attempt),
    )
    decision = decide(facts)
    return {"status": decision.status, "event": decision.event}


def condition(told: dict[str, Any], name: str = "Overfitting") -> tuple[str, str, str]:
    found = main_condition(told["status"], name)
    return found["status"], found["reason"], found["message"]


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        ("Overfitting", ("True", "Overfitting", "the loss rose; try more data")),
        ("Diverged", ("False", "Diverged", "the loss rose; try more data")),
        ("NoImprovement", ("False", "NoImprovement", "the loss rose; try more data")),
        (None, ("Unknown", "Pending", "")),
        ("Possessed", ("Unknown", "Pending", "")),
    ],
)
def test_the_condition_says_how_the_model_fits(
    finding: str | None, expected: tuple[str, str, str]
) -> None:
    assert condition(training(finding)) == expected


@pytest.mark.parametrize("finding", ["Overfitting", "Diverged", "WorseThanBase"])
def test_harm_is_told_once_as_a_warning_with_what_to_try(finding: str) -> None:
    first = training(finding)
    assert (first["event"]["type"], first["event"]["reason"]) == ("Warning", finding)
    assert "try more data" in first["event"]["note" if "note" in first["event"] else "message"]
    assert "try more data" in condition(first, "Reconciling")[2]
    again = training(finding, first["status"])
    assert again["event"] is None and again["status"] == first["status"]


def test_what_is_not_said_now_stays() -> None:
    first = training("Overfitting")
    assert condition(training(None, first["status"])) == condition(first)
    assert condition(training("WellFitted", first["status"], attempt=7)) == condition(first)
    better = training("WellFitted", first["status"])
    assert condition(better)[:2] == ("False", "WellFitted")


def finished(finding: str, message: str, metrics: dict[str, Any] | None = None) -> Any:
    """The decisions at the end of the training and at that of the job."""
    judgement = {"finding": finding, "message": message}
    told = last_words(TRAIN, step=3, steps=3, judgement=judgement, metrics=metrics or {})
    trained = decide(
        make_facts(
            status_in(TRAIN), jobs=(make_child_job(TRAIN, **COMPLETE),),
            pods=(ended_pod(0, code=0, words=told),),
        )
    )  # fmt: skip
    artifact = {"artifact": {"formats": ["Merged"], "digest": "sha256:1", "step": 40}}
    done = decide(
        make_facts(
            FineTuneJobStatus.model_validate({**trained.status, "exportAttempt": 0}),
            jobs=(make_child_job(EXPORT, **COMPLETE),),
            pods=(ended_pod(0, EXPORT, code=0, words=last_words(EXPORT, **artifact)),),
        )
    )
    return trained, done


def test_the_end_of_training_and_of_the_job_repeat_it() -> None:
    trained, done = finished("Underfitting", "still falling; try more epochs")
    assert condition({"status": trained.status})[:2] == ("False", "Underfitting")
    assert done.status["phase"] == "Succeeded" and done.status["artifact"]["step"] == 40
    succeeded = main_condition(done.status, "Succeeded")["message"]
    assert succeeded.endswith("; Underfitting: still falling; try more epochs")


@pytest.mark.parametrize(
    ("now", "before", "worse"), [(9.0125, 2.0, True), (2.0, 2.0, False), (1.9, 2.0, False)]
)
def test_a_result_that_is_worse_than_the_untouched_model_is_hard_to_miss(
    now: float, before: float, worse: bool
) -> None:
    """It is published, as nobody asked for a gate; the reason, the Event and the first words say
    what it is, whatever was found on the way."""
    metrics = {"evalLoss": now, "baseline": {"evalLoss": before}}
    finding = "Diverged" if worse else "WellFitted"
    _, done = finished(finding, "try a tenth of training.learningRate", metrics)
    told = main_condition(done.status, "Succeeded")
    assert (done.status["phase"], told["status"]) == ("Succeeded", "True")
    expected = ("Warning", "WorseThanBase") if worse else ("Normal", "Succeeded")
    assert (done.event["type"], done.event["reason"]) == expected
    assert told["reason"] == expected[1]
    sentence = (
        "the result is worse than the untouched model on held-out rows (evalLoss 9.0125, before "
        "training 2); the result lies at "
    )
    assert told["message"].startswith(sentence) == worse
    assert told["message"].endswith("Diverged: try a tenth of training.learningRate") == worse


@pytest.mark.parametrize("judgement", ["x", {"finding": "?"}, {"message": "x"}, [], 1])
def test_a_judgement_that_makes_no_sense_costs_no_other_number(judgement: Any) -> None:
    body = last_words(TRAIN, step=3, judgement=judgement)
    words = read_last_words(json.dumps(body))
    assert words is not None and words.step == 3 and words.judgement is None
