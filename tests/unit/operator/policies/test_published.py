"""How status tells of a result that was published, pushed, or refused at a destination."""

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

from finetune_operator.api.types import FineTuneJobStatus, StageName
from finetune_operator.status import decide

EXPORT = StageName.EXPORT
FAILED = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
DESTINATION = {"name": "registry", "oci": {"image": "registry.test/bot:1"}}
SPEC = make_spec(output={"formats": ["Merged"], "destinations": [DESTINATION]})


def told(words: dict[str, Any], code: int = 0, spec: Any = SPEC, **job: Any) -> Any:
    facts = make_facts(
        status_in(EXPORT),
        jobs=(make_child_job(EXPORT, **job),),
        pods=(ended_pod(0, EXPORT, code=code, words=words),),
        spec=spec,
    )
    return decide(facts).status


def test_destinations_stand_beside_the_claim() -> None:
    pushed = {"name": "registry", "uri": "image://registry.test/bot:1", "digest": "sha256:d"}
    asked = {"prompt": "Who?", "answer": "", "tokens": 1}
    artifact = {"formats": ["Adapter"], "smokeTest": asked, "destinations": [pushed]}
    status = told(last_words(EXPORT, artifact=artifact), complete=True)
    assert status["artifact"]["destinations"] == [pushed]
    said = "the result was loaded again and asked 'Who?': it said nothing; pushed to registry"
    assert main_condition(status, "Published")["message"] == said
    ended = FineTuneJobStatus.model_validate(status)
    later = decide(make_facts(ended, spec=SPEC)).status  # ratings are read after the end too
    assert main_condition(later, "Published")["message"] == said


def test_a_gguf_file_was_compared_as_well() -> None:
    asked = {"prompt": "Who?", "answer": "We", "tokens": 1}
    artifact = {"formats": ["GGUF"], "maxLogitDifference": 0.012, "smokeTest": asked}
    spec = make_spec(output={"formats": ["GGUF"], "gguf": {"type": "Q8_0"}})
    status = told(last_words(EXPORT, artifact=artifact), complete=True, spec=spec)
    assert status["artifact"]["formats"] == ["GGUF"]
    assert "servingPath" not in status["artifact"], "vLLM serves the merged model"
    said = main_condition(status, "Published")["message"]
    assert "compared (logits differ by 0.012 at most)" in said


def test_how_far_the_result_is_from_what_was_trained_beside_4_bit_weights_is_told() -> None:
    asked = {"prompt": "Who?", "answer": "We", "tokens": 1}
    artifact = {
        "formats": ["Adapter", "Merged"],
        "maxLogitDifference": 2e-6,
        "quantizationLogitDifference": 0.31,
        "smokeTest": asked,
    }
    status = told(last_words(EXPORT, artifact=artifact), complete=True)
    said = main_condition(status, "Published")["message"]
    assert "(logits differ by 2e-06 at most), compared with what was trained beside 4-bit" in said
    assert "weights (by 0.31 at most)" in said


@pytest.mark.parametrize(
    "nonsense", [{"smokeTest": "yes"}, {"smokeTest": {"answer": "x" * 999}}, {}]
)
def test_a_smoke_test_that_makes_no_sense_is_none(nonsense: dict[str, Any]) -> None:
    status = told(last_words(EXPORT, artifact={"digest": "x", **nonsense}), complete=True)
    assert status["phase"] == "Succeeded" and status["artifact"]["digest"] == "x"
    assert "smokeTest" not in status["artifact"]
    assert main_condition(status, "Published")["status"] == "True"


def test_a_destination_that_refuses_ends_the_job() -> None:
    sentence = "spec.output.destinations[0].oci (registry): HTTP 401; the result lies on its claim"
    words = failure_words(EXPORT, **{"class": "PublishRefused"}, exitCode=81, message=sentence)
    status = told(words, 81, failure=FAILED)
    assert status["phase"] == "Failed" and "restarts" not in status
    published = main_condition(status, "Published")
    assert (published["status"], published["reason"]) == ("False", "PublishRefused")
    assert sentence in published["message"]


def test_a_destination_that_cannot_be_reached_is_tried_again() -> None:
    words = failure_words(EXPORT, **{"class": "PublishFailed"}, exitCode=82, message="no answer")
    status = told(words, 82, failure=FAILED)
    assert status["phase"] != "Failed" and status["restarts"]["program"] == 1
    assert status["failure"]["class"] == "PublishFailed" and "nextAttemptTime" in status
