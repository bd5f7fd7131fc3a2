"""Kueue holds a gang back, admits it, and takes its quota back."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_plan,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Condition,
    FineTuneJobStatus,
    Phase,
    Reason,
    Restarts,
    StageName,
)
from finetune_operator.objects.export_job import build_export_job
from finetune_operator.objects.prepare_job import build_prepare_job
from finetune_operator.objects.train_job import build_train_job
from finetune_operator.observed import Admission
from finetune_operator.policies.facts import Facts, Verb
from finetune_operator.reading import read_admission
from finetune_operator.status import decide

T = StageName.TRAIN
QUEUED = make_spec(queue={"name": "gold", "priorityClass": "research"})
WORDS = "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu"
PREEMPTED = Admission(known=True, evicted=("Preempted", "to make room for workload vip"))


def told(*conditions: tuple[str, str, str], **fields: Any) -> FineTuneJobStatus:
    known = tuple(
        Condition(
            type=name,
            status=value,  # type: ignore[arg-type]
            reason=reason,
            message="",
            last_transition_time=NOW - seconds(50),
        )
        for name, value, reason in conditions
    )
    return status_in(T, conditions=known, job_uid="uid-of-demo-a0", **fields)


TRAINED = told(("GangReady", "True", "Training"), phase=Phase.TRAINING)
WAITED = told(("GangReady", "False", "WaitingForPods"), phase=Phase.QUEUED)


def held(status: FineTuneJobStatus = WAITED, **fields: Any) -> Facts:
    job = {name: fields.pop(name) for name in ("failed", "failure") if name in fields}
    return make_facts(
        status, jobs=(make_child_job(T, suspended=True, **job),), **{"spec": QUEUED, **fields}
    )


def test_only_the_gang_is_queued_and_it_is_made_suspended() -> None:
    plan = make_plan(QUEUED)
    job = build_train_job(plan, 0)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gold"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "research"
    for other in (build_prepare_job(plan, 0), build_export_job(plan, 0, 0)):
        assert "suspend" not in other["spec"]
        assert not any("kueue" in label for label in other["metadata"]["labels"])
    assert "suspend" not in build_train_job(make_plan(), 0)["spec"]


@pytest.mark.parametrize(
    ("admission", "part"),
    [
        pytest.param(None, "Kueue is not installed, or", id="nobody answers"),
        pytest.param(Admission(), "has not taken it up yet", id="no workload yet"),
        pytest.param(Admission(known=True, waiting=WORDS), WORDS, id="in Kueue's words"),
        pytest.param(Admission(known=True), "gold for admission", id="nothing was said"),
    ],
)
def test_the_sentence_says_what_the_queue_waits_for(admission: Admission, part: str) -> None:
    decision = decide(held(admission=admission))
    assert decision.status["phase"] == "Queued"
    assert main_condition(decision.status)["reason"] == Reason.QUEUED
    assert "waits in queue gold" in decision.status["pendingReason"]
    assert part in decision.status["pendingReason"]
    assert not decision.actions and decision.again_after is not None


def test_a_young_job_is_not_told_as_queued_before_kueue_has_spoken() -> None:
    """Kueue takes a moment to look at a Job: no status is written for that."""
    young = {"created": NOW - seconds(2), "suspended": True}
    facts = make_facts(
        status_in(T), jobs=(make_child_job(T, **young),), spec=QUEUED, admission=Admission()
    )
    decision = decide(facts)
    assert decision.status["phase"] == "Starting" and "pendingReason" not in decision.status
    assert decision.again_after == pytest.approx(3)


def test_without_a_queue_in_the_spec_nobody_is_blamed() -> None:
    decision = decide(held(spec=make_spec()))
    assert "somebody suspended it" in decision.status["pendingReason"]


EVIDENCE = [
    pytest.param(held(TRAINED), id="it was said before"),
    pytest.param(held(failed=1), id="the Job counts its pods"),
    pytest.param(held(admission=PREEMPTED), id="Kueue says so"),
    pytest.param(held(evidence=(ended_pod(code=75),)), id="a pod said its last words"),
]


@pytest.mark.parametrize("facts", EVIDENCE)
def test_an_evicted_gang_queues_anew_as_the_next_attempt(facts: Facts) -> None:
    status = decide(facts).status
    assert status["phase"] == "Restarting"
    assert status["failure"]["class"] == "Evicted"
    assert status["restarts"]["infrastructure"] == 1
    assert not status["restarts"].get("program")


def test_pods_that_still_save_are_waited_for_and_their_job_goes_at_once() -> None:
    """Else the queue might admit it again: two gangs would be one attempt."""
    saving = (make_pod(deleting=True),)
    decision = decide(held(TRAINED, pods=saving, admission=PREEMPTED))
    assert main_condition(decision.status)["reason"] == "Draining"
    assert "restarts" not in decision.status
    assert [(action.verb, action.name) for action in decision.actions] == [(Verb.DELETE, "demo-a0")]
    assert "Preempted): to make room for workload vip" in decision.status["failure"]["message"]

    stored = FineTuneJobStatus.model_validate(decision.status)
    waiting = decide(make_facts(stored, pods=saving, spec=QUEUED))
    assert main_condition(waiting.status)["reason"] == "Draining"
    assert "to make room for workload vip" in main_condition(waiting.status)["message"]
    assert not waiting.actions
    after = decide(make_facts(stored, spec=QUEUED)).status
    assert (after["phase"], after["failure"]["class"]) == ("Restarting", "Evicted")
    assert after["restarts"] == {"program": 0, "infrastructure": 1, "total": 1}


def test_a_job_that_failed_while_suspended_was_evicted_whatever_its_pods_say() -> None:
    """Kubernetes 1.36 does not count pods that it ends for a suspension; others may."""
    words = last_words(T, "failed", failure={"class": "UserCode", "rank": 0, "message": "hm"})
    failed = ("BackoffLimitExceeded", "too many failures")
    for pod in (ended_pod(code=137), ended_pod(code=1, words=words)):
        status = decide(held(TRAINED, failed=1, failure=failed, evidence=(pod,))).status
        assert status["failure"]["class"] == "Evicted"
        assert status["restarts"] == {"program": 0, "infrastructure": 1, "total": 1}


def test_the_suspended_job_is_deleted_before_the_next_attempt() -> None:
    after = TRAINED.model_copy(
        update={"next_attempt_time": NOW, "restarts": Restarts(infrastructure=1)}
    )
    decision = decide(held(after))
    assert [(action.verb, action.name) for action in decision.actions] == [(Verb.DELETE, "demo-a0")]


def test_a_job_that_goes_already_is_looked_at_when_something_happens() -> None:
    old = make_child_job(created=NOW - seconds(601), deleting=True)
    assert decide(make_facts(status_in(T), jobs=(old,))).again_after is None


def test_time_in_the_queue_does_not_count_against_the_start_deadline() -> None:
    spec = make_spec(queue={"name": "gold"}, startDeadlineSeconds=60)
    late = {"created": NOW - seconds(7200)}
    for started, reason in ((10, "Starting"), (61, "StartTimeout")):
        job = make_child_job(T, started=NOW - seconds(started), **late)
        status = decide(make_facts(WAITED, jobs=(job,), spec=spec)).status
        assert main_condition(status)["reason"] == reason


def test_the_newest_workload_counts() -> None:
    def workload(created: str, *conditions: dict[str, str]) -> dict[str, Any]:
        return {
            "metadata": {"creationTimestamp": created},
            "status": {"conditions": list(conditions)},
        }

    old = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "away"}
    new = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": WORDS}
    both = [workload("2026-01-02T00:00:00Z", new), workload("2026-01-01T00:00:00Z", old)]
    assert read_admission(both) == Admission(known=True, waiting=WORDS)
    assert read_admission(both[1:]).evicted == ("Preempted", "away")
    assert read_admission([]) == Admission()
    assert read_admission([{"metadata": {"creationTimestamp": "x"}}]) == Admission(known=True)
