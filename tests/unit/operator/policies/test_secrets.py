"""The operator's wall: whoever spoke, no secret of his is stored or told in an Event."""

from __future__ import annotations

import json

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    make_child_job,
    make_facts,
    pending_pod,
    seconds,
    status_in,
)
from secrets_cases import SECRET, SECRETS, VALUES

from finetune_operator.api.redaction import MARK
from finetune_operator.api.types import FineTuneJobStatus, StageName
from finetune_operator.policies.facts import Facts
from finetune_operator.status import decide

T = StageName.TRAIN


def failed(words: str) -> Facts:
    job = make_child_job(T, failure=("BackoffLimitExceeded", "Job has reached the limit"))
    return make_facts(status_in(T), jobs=(job,), pods=(ended_pod(0, code=70, words=words),))


@pytest.mark.parametrize("text", SECRETS)
def test_a_trainer_that_clears_nothing_tells_nothing(text: str) -> None:
    words = failure_words(
        **{"class": "Internal"}, message=text, hint=text, lines=text.split("\n"), cause=text
    )
    decision = decide(failed(words))
    told = json.dumps([decision.status, decision.event])
    assert MARK in decision.status["failure"]["message"]
    assert MARK in told
    for value in VALUES:
        assert value not in told


def test_words_that_are_no_record_are_cleared_too() -> None:
    decision = decide(failed(f"Traceback\nKeyError: 'hf_{SECRET}'"))
    assert decision.status["failure"]["lines"] == ["Traceback", f"KeyError: '{MARK}'"]


def test_what_a_node_says_of_an_image_is_cleared() -> None:
    message = f'failed to do request: Head "https://me:{SECRET}@example.test/v2/": EOF'
    pods = [pending_pod(n, waiting=("ErrImagePull", message), node="n1") for n in range(2)]
    old = make_child_job(T, created=NOW - seconds(60))
    decision = decide(make_facts(status_in(T), jobs=(old,), pods=tuple(pods)))
    assert f"https://{MARK}@example.test/v2/" in decision.status["pendingReason"]
    assert SECRET not in json.dumps([decision.status, decision.event])


def test_a_stored_status_is_at_rest_although_its_texts_were_cleared() -> None:
    facts = failed(failure_words(**{"class": "Internal"}, message=f"password={SECRET}"))
    first = decide(facts)
    stored = FineTuneJobStatus.model_validate(first.status)
    second = decide(make_facts(stored, jobs=facts.observed.jobs, pods=facts.observed.pods))
    assert second.status == first.status
