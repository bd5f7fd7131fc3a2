"""Every class has a payer, and no class is forgotten."""

from __future__ import annotations

import pytest
from builders import ended_pod, make_child_job, make_facts, make_spec, status_in

from finetune_operator.api.failures import BY_NAME, FAILURE_CLASSES, Budget
from finetune_operator.api.types import Failure, Reason, Restarts, StageName
from finetune_operator.policies.budget import SEEN_FROM_OUTSIDE, allowed, payer, spent
from finetune_operator.policies.failure import SENTENCES, digest

P, I, N = Budget.PROGRAM, Budget.INFRASTRUCTURE, Budget.NONE  # noqa: E741

PAYERS = {
    "ConfigInvalid": N,
    "BadData": N,
    "ModelLoad": N,
    "NoValidCheckpoint": N,
    "DiskFull": N,
    "GateFailed": N,
    "PublishRefused": N,
    "SelfTestFailed": N,
    "Internal": P,
    "CudaOom": P,
    "NonFinite": P,
    "LossSpike": P,
    "PublishFailed": P,
    "HostOom": P,
    "EphemeralStorageExceeded": P,
    "UnknownFailure": P,
    "CollectiveTimeout": I,
    "Preempted": I,
    "Hang": I,
    "HardwareFault": I,
    "Rendezvous": I,
    "Evicted": I,
    "PodLost": I,
    "NodeLost": I,
    "JobVanished": I,
}


@pytest.mark.parametrize(("name", "budget"), PAYERS.items())
def test_the_payer_is(name: str, budget: Budget) -> None:
    assert payer(Failure(failure_class=name)) is budget


def test_every_class_that_a_digest_can_have_stands_in_the_table() -> None:
    assert PAYERS.keys() == {failure.name for failure in FAILURE_CLASSES} | SENTENCES.keys()
    assert SENTENCES.keys() == SEEN_FROM_OUTSIDE.keys()
    assert not SEEN_FROM_OUTSIDE.keys() & BY_NAME.keys()


@pytest.mark.parametrize("name", [None, "Nonsense", Reason.DEADLINE_EXCEEDED.value])
def test_what_is_no_failure_of_an_attempt_is_paid_by_nobody(name: str | None) -> None:
    assert payer(Failure(failure_class=name)) is N


@pytest.mark.parametrize(
    ("code", "disruption", "budget"),
    [
        pytest.param(71, "", P, id="out of memory"),
        pytest.param(71, "EvictionByEvictionAPI", I, id="an eviction, whatever the code"),
        pytest.param(75, "", I, id="asked to stop, and saved"),
        pytest.param(143, "", I, id="asked to stop before it could listen"),
        pytest.param(74, "", I, id="lost its peers"),
        pytest.param(137, "", P, id="killed without a word"),
        pytest.param(64, "", N, id="settings that cannot work"),
    ],
)
def test_the_end_of_a_pod_leads_to_its_payer(code: int, disruption: str, budget: Budget) -> None:
    job = make_child_job(failure=("BackoffLimitExceeded", "…"))
    pods = (ended_pod(1, code=code, disruption=disruption),)
    facts = make_facts(status_in(StageName.TRAIN), jobs=(job,), pods=pods)
    assert payer(digest(facts)) is budget


def test_budgets_are_counted_apart_and_default_to_3_and_20() -> None:
    facts = make_facts(status_in(StageName.TRAIN, restarts=Restarts(program=2, infrastructure=7)))
    assert (spent(facts, P), allowed(facts, P)) == (2, 3)
    assert (spent(facts, I), allowed(facts, I)) == (7, 20)
    spec = make_spec(recovery={"maxRestarts": 0, "maxInfrastructureRestarts": 1})
    fresh = make_facts(status_in(StageName.TRAIN), spec=spec)
    assert (spent(fresh, P), allowed(fresh, P)) == (0, 0)
    assert (spent(fresh, I), allowed(fresh, I)) == (0, 1)
