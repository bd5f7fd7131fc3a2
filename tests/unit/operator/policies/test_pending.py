"""Why a pod does not run, in one sentence; the messages are those of real components."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    NOW,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    pending_pod,
    seconds,
    status_in,
)

from finetune_operator.api.types import Phase, Reason, StageName
from finetune_operator.policies.facts import Facts
from finetune_operator.policies.pending import explain, warning_about

T = StageName.TRAIN
SCHEDULER = (
    "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient nvidia.com/gpu. "
    "no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims "
    "found for incoming pod."
)
GATES = "Scheduling is blocked due to non-empty scheduling gates"
UNBOUND = "pod has unbound immediate PersistentVolumeClaims. not found"
PULL = (
    'Back-off pulling image "example.test/trainer:1": ErrImagePull: rpc error: code = NotFound '
    'desc = failed to pull and unpack image "example.test/trainer:1": not found'
)
QUOTA = (
    'Error creating: pods "demo-a0-0-x" is forbidden: exceeded quota: team, requested: '
    "pods=1, used: pods=10, limited: pods=10"
)
NO_ACCOUNT = 'Error creating: pods "demo-a0-0-x" is forbidden: service account "ml" not found'
MAY_NOT = "the operator may not list events in namespace team-a: give the role the verb list"
MOUNT = 'MountVolume.SetUp failed for volume "token" : secret "hub" not found'


def unscheduled(message: str) -> dict[str, Any]:
    return {"unscheduled": ("Unschedulable", message, NOW - seconds(20))}


def stuck(reason: str, message: str) -> dict[str, Any]:
    return {"waiting": (reason, message), "node": "n1"}


def gang(*pods: Any, warning: tuple[str, str] | None = None, **fields: Any) -> Facts:
    job = make_child_job(T, **fields)
    return make_facts(status_in(T), jobs=(job,), pods=pods, warning=warning)


def preparing(message: str, **observed: Any) -> Facts:
    """A prepare pod that mounts three claims."""
    spec = make_spec(
        model={"uri": "pvc://models/base"},
        data={"train": [{"name": "rows", "uri": "pvc://datasets/rows.jsonl"}], "eval": None},
    )
    pod = pending_pod(0, StageName.PREPARE, **unscheduled(message))
    job = make_child_job(StageName.PREPARE)
    return make_facts(status_in(StageName.PREPARE), jobs=(job,), pods=(pod,), spec=spec, **observed)


ROWS = [
    pytest.param(
        gang(pending_pod(0, **unscheduled(SCHEDULER)), pending_pod(1, **unscheduled(SCHEDULER))),
        Reason.UNSCHEDULABLE,
        "2 of 2 pods cannot be scheduled: 0/3 nodes are available: 1 node(s) had untolerated "
        "taint(s), 2 Insufficient nvidia.com/gpu",
        id="no node",
    ),
    pytest.param(
        gang(make_pod(0), pending_pod(1, **unscheduled(SCHEDULER))),
        Reason.UNSCHEDULABLE,
        "1 of 2 pods cannot be scheduled: 0/3 nodes",
        id="a half-placed gang",
    ),
    pytest.param(
        gang(pending_pod(0, **unscheduled(UNBOUND)), pending_pod(1, **unscheduled(UNBOUND))),
        Reason.VOLUME_PENDING,
        "look at PersistentVolumeClaim work",
        id="a claim without a volume",
    ),
    pytest.param(
        gang(pending_pod(0, **stuck("ImagePullBackOff", PULL)), make_pod(1)),
        Reason.IMAGE_PULL,
        "1 of 2 pods cannot pull image example.test/trainer:1: failed to pull and unpack image",
        id="an image that does not exist",
    ),
    pytest.param(
        gang(
            pending_pod(0, **stuck("CreateContainerConfigError", 'configmap "x" not found')),
            make_pod(1),
        ),
        Reason.CONTAINER_CONFIG,
        '(CreateContainerConfigError): configmap "x" not found',
        id="a container that cannot be configured",
    ),
    pytest.param(
        gang(warning=("FailedCreate", QUOTA)),
        Reason.QUOTA_EXCEEDED,
        "2 of 2 pods cannot be created: Error creating: pods",
        id="no quota",
    ),
    pytest.param(
        gang(make_pod(0), warning=("FailedCreate", NO_ACCOUNT)),
        Reason.WAITING_FOR_PODS,
        'service account "ml" not found',
        id="no service account",
    ),
    pytest.param(
        gang(
            pending_pod(0, **stuck("ContainerCreating", "")),
            pending_pod(1, **stuck("ContainerCreating", "")),
            warning=("FailedMount", MOUNT),
        ),
        Reason.VOLUME_PENDING,
        '(FailedMount): MountVolume.SetUp failed for volume "token"',
        id="a volume that cannot be mounted",
    ),
    pytest.param(
        gang(suspended=True), Reason.QUEUED, "held back: somebody", id="somebody says not yet"
    ),
    pytest.param(
        preparing(UNBOUND),
        Reason.VOLUME_PENDING,
        "look at PersistentVolumeClaims work, models, datasets",
        id="one of several claims without a volume",
    ),
    pytest.param(
        preparing(UNBOUND, unbound=("models",)),
        Reason.VOLUME_PENDING,
        "pod has unbound immediate PersistentVolumeClaims; look at PersistentVolumeClaim models",
        id="the claim without a volume, among several",
    ),
    pytest.param(
        preparing('persistentvolumeclaim "datasets" not found'),
        Reason.VOLUME_PENDING,
        "look at PersistentVolumeClaim datasets",
        id="a claim that the scheduler names",
    ),
    pytest.param(
        gang(make_pod(0), warning=("Forbidden", MAY_NOT)),
        Reason.FORBIDDEN,
        f"1 of 2 pods are not up yet, and their Events may say why: {MAY_NOT}",
        id="events that cannot be read, about a pod that is not there",
    ),
    pytest.param(
        gang(
            make_pod(0),
            pending_pod(1, **stuck("ContainerCreating", "")),
            warning=("Forbidden", MAY_NOT),
        ),
        Reason.FORBIDDEN,
        f"1 of 2 pods are not up yet, and their Events may say why: {MAY_NOT}",
        id="events that cannot be read, about a pod that does not start",
    ),
    pytest.param(
        gang(
            pending_pod(0, **unscheduled(SCHEDULER)),
            pending_pod(1, **stuck("ContainerCreating", "")),
            warning=("Forbidden", MAY_NOT),
        ),
        Reason.UNSCHEDULABLE,
        "1 of 2 pods cannot be scheduled: 0/3 nodes",
        id="events that cannot be read hide nothing that pods say themselves",
    ),
    pytest.param(
        gang(make_pod(0), pending_pod(1, unscheduled=("SchedulingGated", GATES, NOW))),
        Reason.WAITING_FOR_PODS,
        "1 of 2 pods are held back by scheduling gates, which whoever set them takes away",
        id="a gate on a pod",
    ),
    pytest.param(
        gang(
            pending_pod(0, unscheduled=("SchedulingGated", GATES, NOW)),
            pending_pod(1, **unscheduled(SCHEDULER)),
        ),
        Reason.UNSCHEDULABLE,
        "1 of 2 pods cannot be scheduled: 0/3 nodes",
        id="a gate beside a pod that fits nowhere",
    ),
]


@pytest.mark.parametrize(("facts", "reason", "part"), ROWS)
def test_the_sentence_names_the_cause(facts: Facts, reason: Reason, part: str) -> None:
    waiting, _ = explain(facts)
    assert waiting is not None
    assert waiting.reason is reason
    assert part in waiting.sentence
    assert "preemption" not in waiting.sentence and "rpc error" not in waiting.sentence


@pytest.mark.parametrize(
    ("facts", "hint"),
    [
        pytest.param(ROWS[0].values[0], "; wait, end other jobs, or lower", id="no GPU is free"),
        pytest.param(ROWS[3].values[0], "; check spec.model.uri where", id="no such image"),
        pytest.param(ROWS[4].values[0], "spec.model.chatTemplate.configMap", id="no ConfigMap"),
        pytest.param(ROWS[6].values[0], "spec.workers.serviceAccountName", id="no account"),
        pytest.param(ROWS[7].values[0], "correct the field's secretRef", id="no Secret"),
    ],
)
def test_the_sentence_ends_with_what_to_do(facts: Facts, hint: str) -> None:
    waiting, _ = explain(facts)
    assert waiting is not None and hint in waiting.sentence


def test_words_that_nobody_knows_are_told_without_advice() -> None:
    waiting, _ = explain(gang(pending_pod(0, **stuck("ErrImagePull", "EOF")), make_pod(1)))
    assert waiting is not None and waiting.sentence.endswith("example.test/trainer:1: EOF")


def test_the_two_faces_of_a_failed_pull_make_the_same_sentence() -> None:
    """ErrImagePull and ImagePullBackOff take turns; the status must not."""
    plain = PULL.removeprefix('Back-off pulling image "example.test/trainer:1": ErrImagePull: ')
    sentences = set()
    for reason, message in (("ImagePullBackOff", PULL), ("ErrImagePull", plain)):
        waiting, _ = explain(gang(pending_pod(0, **stuck(reason, message)), make_pod(1)))
        assert waiting is not None
        sentences.add(waiting.sentence)
    assert len(sentences) == 1


def test_pods_that_just_began_are_given_a_moment() -> None:
    young = pending_pod(0, created=NOW - seconds(2), **unscheduled(SCHEDULER))
    waiting, again = explain(gang(young, created=NOW - seconds(2)))
    assert waiting is None
    assert again == pytest.approx(3)


def test_a_healthy_gang_has_nothing_to_explain() -> None:
    assert explain(gang(make_pod(0), make_pod(1))) == (None, None)


def test_a_queued_job_is_in_phase_queued() -> None:
    waiting, _ = explain(gang(suspended=True))
    assert waiting is not None and waiting.phase is Phase.QUEUED


def test_a_model_image_that_cannot_be_pulled_is_named_instead_of_the_trainer() -> None:
    message = 'failed to pull and unpack image "example.test/model:1": not found'
    pod = pending_pod(0, StageName.PREPARE, **stuck("ErrImagePull", message))
    facts = make_facts(
        status_in(StageName.PREPARE),
        jobs=(make_child_job(StageName.PREPARE),),
        pods=(pod,),
        spec=make_spec(model={"uri": "image://example.test/model:1//x"}),
    )
    waiting, _ = explain(facts)
    assert waiting is not None and "cannot pull image example.test/model:1:" in waiting.sentence


@pytest.mark.parametrize(
    ("facts", "uid"),
    [
        pytest.param(gang(), "uid-of-demo-a0", id="the Job, when pods are missing for long"),
        pytest.param(gang(created=NOW - seconds(5)), None, id="but not at once"),
        pytest.param(
            gang(make_pod(0), pending_pod(1, **stuck("ContainerCreating", ""))),
            "uid-of-demo-a0-1",
            id="a pod whose container is being created for long",
        ),
        pytest.param(gang(make_pod(0), make_pod(1)), None, id="nobody, when all is well"),
        pytest.param(gang(complete=True), None, id="nobody, when it is over"),
        pytest.param(gang(suspended=True), None, id="nobody, when a queue holds it"),
    ],
)
def test_events_are_asked_about(facts: Facts, uid: str | None) -> None:
    assert warning_about(facts) == uid
