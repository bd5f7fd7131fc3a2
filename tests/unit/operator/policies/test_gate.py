"""A gate that is not passed ends the job unpublished; one that is passed says by what."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    ended_pod,
    failure_words,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_spec,
    status_in,
)

from finetune_operator.api.types import StageName
from finetune_operator.status import decide

EXPORT = StageName.EXPORT
GATE = {"scores": [{"metric": "EvalLoss", "atMost": "1"}]}
SENTENCE = "the model is not published, because evalLoss is 1.3 and has to be at most 1"


def told(spec: Any, code: int, words: dict[str, Any], **job: Any) -> Any:
    facts = make_facts(
        status_in(EXPORT),
        jobs=(make_child_job(EXPORT, **job),),
        pods=(ended_pod(0, EXPORT, code=code, words=words),),
        spec=spec,
    )
    return decide(facts).status


def test_a_failed_gate_ends_the_job_with_its_numbers_and_no_artifact() -> None:
    words = failure_words(
        EXPORT, **{"class": "GateFailed"}, exitCode=80, message=SENTENCE, hint="look at the answers"
    )
    failed = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    status = told(make_spec(gate=GATE), 80, words, failure=failed)
    assert status["phase"] == "Failed" and "artifact" not in status
    assert status["failure"]["class"] == "GateFailed" and "restarts" not in status
    for name in ("Failed", "GatePassed", "Published"):
        found = main_condition(status, name)
        expected = "True" if name == "Failed" else "False"
        assert (found["status"], found["reason"]) == (expected, "GateFailed"), name
        assert SENTENCE in found["message"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (make_spec(gate=GATE), ("True", "GatePassed", "evalLoss is 0.9")),
        (make_spec(), ("Unknown", "NoGate", "")),
    ],
)
def test_a_published_model_says_what_passed_the_gate(
    spec: Any, expected: tuple[str, str, str]
) -> None:
    words = last_words(EXPORT, gate={"message": "evalLoss is 0.9"}, artifact={"digest": "x"})
    found = main_condition(told(spec, 0, words, complete=True), "GatePassed")
    assert (found["status"], found["reason"], found["message"]) == expected


def test_before_the_end_nobody_knows() -> None:
    status = decide(make_facts(spec=make_spec(gate=GATE))).status
    found = main_condition(status, "GatePassed")
    assert (found["status"], found["reason"]) == ("Unknown", "Pending")
