"""Conditions: which stand, and since when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    main_condition,
    make_child_job,
    make_facts,
    make_job,
    make_pod,
    seconds,
    status_in,
)
from unit.operator.status.cases import (
    COMPLETE,
    DEADLINE,
    FAILED,
    GANG,
    SUSPEND,
    P,
    T,
    X,
    ready_gang,
    train,
)

from finetune_operator.api.types import ConditionType, FineTuneJobStatus
from finetune_operator.policies.facts import Facts, Obstacle
from finetune_operator.status import decide

CONDITIONS = [
    pytest.param(make_facts(), ("True", "False", "Unknown", "False"), id="accepted"),
    pytest.param(
        make_facts(status_in(T), jobs=train(), pods=GANG),
        ("False", "False", "Unknown", "False"),
        id="pods run",
    ),
    pytest.param(make_facts(spec=SUSPEND), ("False", "False", "Unknown", "False"), id="suspended"),
    pytest.param(
        make_facts(status_in(X), jobs=(make_child_job(X, **COMPLETE),)),
        ("False", "False", "True", "False"),
        id="succeeded",
    ),
    pytest.param(make_facts(spec={}), ("False", "True", "False", "True"), id="spec invalid"),
    pytest.param(
        make_facts(obstacle=Obstacle("ClaimNotFound", "create it", stalled=True)),
        ("False", "True", "Unknown", "False"),
        id="stuck until a person acts",
    ),
]


def _after_prepare(failure_class: str) -> Facts:
    """The prepare pod ended and said why."""
    words = failure_words(P, **{"class": failure_class, "message": "line 3 is no JSON"})
    job = make_child_job(P, **FAILED)
    return make_facts(status_in(P), jobs=(job,), pods=(ended_pod(0, P, code=65, words=words),))


@pytest.mark.parametrize(("facts", "expected"), CONDITIONS)
def test_conditions_stand_as_kstatus_needs_them(facts: Facts, expected: tuple[str, ...]) -> None:
    status = decide(facts).status
    names = ("Reconciling", "Stalled", "Succeeded", "Failed")
    assert tuple(main_condition(status, name)["status"] for name in names) == expected
    assert [c["type"] for c in status["conditions"]] == [kind.value for kind in ConditionType]
    assert all(c["reason"] and c["observedGeneration"] == 1 for c in status["conditions"])


def test_a_suspended_gang_is_not_called_ready() -> None:
    status = decide(make_facts(ready_gang(job_uid="x"), spec=SUSPEND)).status
    assert status["phase"] == "Suspended"
    assert main_condition(status, "GangReady")["status"] == "False"


def test_a_gang_that_is_asked_to_go_is_not_called_ready() -> None:
    for spec in (SUSPEND, DEADLINE):
        going = decide(make_facts(ready_gang(), jobs=train(), pods=GANG, spec=spec))
        assert going.actions
        assert main_condition(going.status, "GangReady")["status"] == "False"
        known = FineTuneJobStatus.model_validate(going.status)
        leaving = tuple(make_pod(n, deleting=True) for n in (0, 1))
        later = decide(make_facts(known, jobs=train(deleting=True), pods=leaving, spec=spec))
        assert main_condition(later.status, "GangReady")["status"] == "False"


def test_a_spec_that_names_what_cannot_do_is_not_called_valid_to_the_end() -> None:
    cannot = Obstacle("ClaimNotShared", "spec.storage.claimRef.name: use another", final=True)
    ended = FineTuneJobStatus.model_validate(decide(make_facts(obstacle=cannot)).status)
    for status in (ended.wire(), decide(make_facts(ended, generation=2)).status):
        valid = main_condition(status, "SpecValid")
        assert (valid["status"], valid["reason"]) == ("False", "ClaimNotShared")
    waits = Obstacle("ClaimNotFound", "create it", stalled=True)
    status = decide(make_facts(obstacle=waits)).status
    assert main_condition(status, "SpecValid")["status"] == "True"


@pytest.mark.parametrize(
    ("facts", "value", "reason"),
    [
        pytest.param(_after_prepare("BadData"), "False", "BadData", id="bad rows"),
        pytest.param(_after_prepare("ModelLoad"), "False", "ModelLoad", id="no such model"),
        pytest.param(_after_prepare("DiskFull"), "Unknown", "DiskFull", id="no room for them"),
        pytest.param(
            make_facts(obstacle=Obstacle("ClaimNotShared", "use another", final=True)),
            "Unknown",
            "ClaimNotShared",
            id="no pod was ever started",
        ),
        pytest.param(
            make_facts(status_in(P, start_time=NOW - seconds(100)), spec=DEADLINE),
            "Unknown",
            "DeadlineExceeded",
            id="there was no time to look",
        ),
        pytest.param(make_facts(spec={}), "Unknown", "InvalidSpec", id="no wish to look at"),
        pytest.param(make_facts(), "Unknown", "Pending", id="not yet"),
    ],
)
def test_data_that_nobody_judged_are_not_called_invalid(
    facts: Facts, value: str, reason: str
) -> None:
    status = decide(facts).status
    valid = main_condition(status, "DatasetValid")
    assert (valid["status"], valid["reason"]) == (value, reason)
    known = FineTuneJobStatus.model_validate(status)
    again = decide(replace(facts, job=make_job(facts.job.spec, status), status=known))
    assert main_condition(again.status, "DatasetValid") == valid, "and it stays"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = FineTuneJobStatus.model_validate(decide(make_facts()).status)
    later = make_facts(first, now=NOW + seconds(60), generation=2)
    status = decide(later).status
    assert status["observedGeneration"] == 2
    assert main_condition(status)["lastTransitionTime"] == "2026-11-23T12:00:00Z"
    assert main_condition(status)["observedGeneration"] == 2
