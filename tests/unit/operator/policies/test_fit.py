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
        ("NoImprovement", ("False", "NoImprovement", "the loss rose; try more data")),
        (None, ("Unknown", "Pending", "")),
        ("Possessed", ("Unknown", "Pending", "")),
    ],
)
def test_the_condition_says_how_the_model_fits(
    finding: str | None, expected: tuple[str, str, str]
) -> None:
    assert condition(training(finding)) == expected


def test_overfitting_is_told_once_as_a_warning_with_what_to_try() -> None:
    first = training("Overfitting")
    assert (first["event"]["type"], first["event"]["reason"]) == ("Warning", "Overfitting")
    assert "try more data" in first["event"]["note" if "note" in first["event"] else "message"]
    assert "try more data" in condition(first, "Reconciling")[2]
    again = training("Overfitting", first["status"])
    assert again["event"] is None and again["status"] == first["status"]


def test_what_is_not_said_now_stays() -> None:
    first = training("Overfitting")
    assert condition(training(None, first["status"])) == condition(first)
    assert condition(training("WellFitted", first["status"], attempt=7)) == condition(first)
    better = training("WellFitted", first["status"])
    assert condition(better)[:2] == ("False", "WellFitted")


def test_the_end_of_training_and_of_the_job_repeat_it() -> None:
    judgement = {"finding": "Underfitting", "message": "still falling; try more epochs"}
    words = last_words(TRAIN, step=3, steps=3, judgement=judgement)
    trained = decide(
        make_facts(
            status_in(TRAIN), jobs=(make_child_job(TRAIN, **COMPLETE),),
            pods=(ended_pod(0, code=0, words=words),),
        )
    ).status  # fmt: skip
    assert condition({"status": trained})[:2] == ("False", "Underfitting")
    artifact = {"artifact": {"formats": ["Merged"], "digest": "sha256:1", "step": 40}}
    done = decide(
        make_facts(
            FineTuneJobStatus.model_validate({**trained, "exportAttempt": 0}),
            jobs=(make_child_job(EXPORT, **COMPLETE),),
            pods=(ended_pod(0, EXPORT, code=0, words=last_words(EXPORT, **artifact)),),
        )
    )
    assert done.status["phase"] == "Succeeded" and done.status["artifact"]["step"] == 40
    succeeded = main_condition(done.status, "Succeeded")["message"]
    assert succeeded.endswith("; Underfitting: still falling; try more epochs")


@pytest.mark.parametrize("judgement", ["x", {"finding": "?"}, {"message": "x"}, [], 1])
def test_a_judgement_that_makes_no_sense_costs_no_other_number(judgement: Any) -> None:
    body = last_words(TRAIN, step=3, judgement=judgement)
    words = read_last_words(json.dumps(body))
    assert words is not None and words.step == 3 and words.judgement is None
