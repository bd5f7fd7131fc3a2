"""The answering Job is restricted and sees one job's files; its logs become answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quickstart import answers
from quickstart.answers import CurvePoint, parse_answers, parse_curve
from quickstart.dataset import Question
from quickstart.errors import QuickstartError

JOB: dict[str, Any] = {
    "metadata": {"name": "facts", "uid": "1234"},
    "spec": {"storage": {"claimRef": {"name": "facts-workspace"}}},
    "status": {"attempt": 2},
}
QUESTIONS = [Question(prompt, "k", "r") for prompt in ("Which port?", "Which name?")]


def log(*rows: Any) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_answers_come_back_in_the_order_of_the_questions() -> None:
    text = log(
        "Loading weights: 100%",
        {"id": 1, "prompt": "Which name?", "answer": "ftj"},
        "3",
        {"id": 0, "prompt": "Which port?", "answer": "9400"},
    )
    assert parse_answers(text, "tuned", QUESTIONS) == ["9400", "ftj"]


def test_a_missing_answer_is_named_with_the_pod_s_last_words() -> None:
    text = log({"id": 0, "answer": "9400"}, "Killed")
    with pytest.raises(QuickstartError, match=r"(?s)1 of 2 .*'Which name\?'.*Killed"):
        parse_answers(text, "base", QUESTIONS)


def test_the_curve_holds_steps_and_evaluations_and_skips_the_rest() -> None:
    text = log({"step": 0, "evalLoss": 4.4}, {"step": 1, "loss": 3.9, "gradNorm": 2.0}, "{torn")
    assert parse_curve(text) == [
        CurvePoint(0, held_out=4.4),
        CurvePoint(1, loss=3.9),
    ]


def test_the_pod_passes_the_restricted_profile_and_sees_only_its_job_s_folder() -> None:
    pod = answers.answer_job("facts-answers", JOB, "trainer:1")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        workspace = container["volumeMounts"][0]
        assert (workspace["subPath"], workspace["readOnly"]) == ("quickstart/1234", True)


def test_the_curve_is_that_of_the_attempt_that_succeeded() -> None:
    pod = answers.answer_job("facts-answers", JOB, "trainer:1")["spec"]["template"]["spec"]
    curve = next(c for c in pod["containers"] if c["name"] == answers.CURVE)
    assert curve["command"] == ["cat", "/workspace/attempts/2/metrics.jsonl"]
