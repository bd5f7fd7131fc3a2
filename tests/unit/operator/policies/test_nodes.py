"""Nodes that do not answer: when their pods are given up, and what is said of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Condition,
    FineTuneJobStatus,
    LostNode,
    PastFailure,
    Phase,
    StageName,
)
from finetune_operator.observed import ChildPod
from finetune_operator.policies.facts import Facts
from finetune_operator.policies.failure import digest, tell
from finetune_operator.policies.silence import is_lost
from finetune_operator.reports import read_progress
from finetune_operator.status import decide

T = StageName.TRAIN
MINUTE = timedelta(seconds=60)
LONG_AGO = NOW - seconds(9999)
SILENT = {"silent": NOW - seconds(60), "ready": False}


def ago(count: float) -> Any:
    return NOW - seconds(count)


def gang(*pods: ChildPod, **fields: Any) -> Facts:
    job = fields.pop("job", {})
    ready = Condition(
        type="GangReady", status="True", reason="Training", message="", last_transition_time=NOW
    )
    phase = {"phase": Phase.TRAINING, "conditions": (ready,)}
    return make_facts(status_in(T, **phase), jobs=(make_child_job(T, **job),), pods=pods, **fields)


def report(attempt: int = 0) -> Any:
    return read_progress(json.dumps({"attempt": attempt, "updatedAt": 1, "step": 5}).encode())


def status_of(facts: Facts) -> FineTuneJobStatus:
    return FineTuneJobStatus.model_validate(decide(facts).status)


@pytest.mark.parametrize(
    ("pod", "lost"),
    [
        pytest.param(make_pod(), False, id="all is well"),
        pytest.param(make_pod(ready=False), False, id="not ready, says its kubelet"),
        pytest.param(make_pod(silent=ago(59.9)), False, id="silent, not for long"),
        pytest.param(make_pod(silent=ago(60)), True, id="silent for too long"),
        pytest.param(make_pod(due=ago(59.9)), False, id="it had to be gone a little ago"),
        pytest.param(make_pod(due=ago(60)), True, id="it had to be gone long ago"),
        pytest.param(
            make_pod(silent=ago(60), due=NOW + seconds(300)), True, id="silent, told to go"
        ),
        pytest.param(make_pod(due=ago(60), phase="Pending"), True, id="told to go, never ran"),
        pytest.param(ended_pod(silent=ago(99)), False, id="it has ended, and Kubernetes knows"),
        pytest.param(make_pod(due=ago(99), node=""), False, id="it is on no node"),
    ],
)
def test_a_pod_is_lost(pod: ChildPod, lost: bool) -> None:
    assert is_lost(pod, NOW, MINUTE, LONG_AGO) is lost


def test_silence_counts_from_when_somebody_listens_and_a_date_to_be_gone_by_always() -> None:
    just_now = ago(5)
    assert not is_lost(make_pod(silent=ago(600)), NOW, MINUTE, just_now)
    assert is_lost(make_pod(due=ago(600)), NOW, MINUTE, just_now)


@pytest.mark.parametrize(
    ("progress", "heard", "pod", "lost"),
    [
        pytest.param(report(), 59, {}, False, id="it trains"),
        pytest.param(report(), 60, {}, True, id="it stands still"),
        pytest.param(report(attempt=1), 0, {}, True, id="another attempt trains"),
        pytest.param(None, 0, {}, True, id="nobody answers"),
        pytest.param(report(), 0, {"due": NOW + seconds(30)}, True, id="Kubernetes evicts it"),
    ],
)
def test_a_pod_of_a_gang_that_trains_is_not_lost(
    progress: Any, heard: float, pod: Any, lost: bool
) -> None:
    facts = gang(make_pod(0), make_pod(1, **SILENT, **pod), progress=progress, heard=heard)
    assert bool(facts.lost_pods) is lost
    assert len(facts.live_pods) == 2 - lost


def test_a_gang_has_time_to_be_asked_however_short_the_patience() -> None:
    spec = make_spec(recovery={"nodeLostAfterSeconds": 10})
    pods = make_pod(0), make_pod(1, **SILENT)
    assert not gang(*pods, spec=spec, progress=report(), heard=44).lost_pods
    assert gang(*pods, spec=spec, progress=report(), heard=45).lost_pods


def test_the_user_says_how_long() -> None:
    spec = make_spec(recovery={"nodeLostAfterSeconds": 61})
    assert not gang(make_pod(**SILENT), spec=spec).lost_pods


def test_the_status_names_nodes_and_pods_as_long_as_they_are_lost() -> None:
    lost = (make_pod(1, **SILENT), make_pod(0, attempt=3, node="n2", due=ago(90)))
    (node,) = status_of(gang(make_pod(0), *lost)).lost_nodes or ()
    assert (node.name, node.since) == ("n2", ago(90))
    assert node.pods == ("demo-a0-1-abcde", "demo-a3-0-abcde")
    known = status_of(gang(make_pod(0), *lost))
    back = make_facts(known, jobs=(make_child_job(T),), pods=(make_pod(0),))
    assert status_of(back).lost_nodes is None


def test_pods_of_others_are_not_named() -> None:
    assert status_of(make_facts(pods=(make_pod(owner_uid="other", **SILENT),))).lost_nodes is None


@pytest.mark.parametrize(
    ("others", "name"),
    [
        pytest.param((), "NodeLost", id="it says nothing, nor does anybody else"),
        pytest.param((ended_pod(0, code=74),), "NodeLost", id="the others lost their peer"),
        pytest.param((ended_pod(0, code=143),), "NodeLost", id="the others were told to stop"),
        pytest.param(
            (ended_pod(0, code=71, words=failure_words(rank=0)),), "CudaOom", id="one had failed"
        ),
    ],
)
def test_the_failure_is(others: tuple[ChildPod, ...], name: str) -> None:
    facts = gang(make_pod(1, **SILENT, disruption="DeletionByTaintManager"), *others)
    assert digest(facts).failure_class == name


def test_what_is_said_of_a_lost_node_is_what_is_known() -> None:
    silent = digest(gang(make_pod(0), make_pod(1, **SILENT)))
    assert tell(silent) == (
        "train failed with NodeLost (rank 1, pod demo-a0-1-abcde, node n2): node n2 has not "
        "answered since 2026-11-23T11:59:00Z; its pod may still run there"
    )
    assert (silent.at, silent.exit_code) == (ago(60), None)
    assert silent.hint and "node.kubernetes.io/out-of-service" in silent.hint
    evicted = make_pod(1, **SILENT, due=NOW + seconds(30))
    assert "trained on there" in (digest(gang(evicted, progress=report())).message or "")
    stuck = digest(gang(make_pod(1, due=ago(60))))
    assert stuck.message == (
        "the pod had to be gone by 2026-11-23T11:59:00Z and is still there: node n2 does not "
        "answer, or cannot end its processes"
    )


def test_who_waits_for_a_node_says_until_when() -> None:
    decision = decide(gang(make_pod(0), make_pod(1, silent=ago(40), ready=False)))
    assert decision.status["pendingReason"] == (
        "a node does not answer, and what it ran may still run: pod demo-a0-1-abcde on node n2 (no "
        "word since 2026-11-23T11:59:20Z); waiting until 2026-11-23T12:00:20Z for it to come back "
        "(spec.recovery.nodeLostAfterSeconds: 60)"
    )
    assert decision.again_after == pytest.approx(20.1)
    assert "lostNodes" not in decision.status


def test_a_gang_that_trains_without_a_word_from_a_node_says_both_and_is_looked_at() -> None:
    pods = make_pod(0), make_pod(1, **SILENT)
    decision = decide(gang(*pods, progress=report()))
    message = next(c for c in decision.status["conditions"] if c["type"] == "Reconciling")[
        "message"
    ]
    assert message == (
        "all ranks train, although a node does not answer: pod demo-a0-1-abcde on node n2 (no word "
        "since 2026-11-23T11:59:00Z)"
    )
    assert decision.again_after == 10


def test_the_end_names_the_pods_that_were_given_up() -> None:
    once = make_spec(recovery={"maxInfrastructureRestarts": 0})
    status = status_of(gang(make_pod(1, **SILENT), job={"deleting": True}, spec=once))
    assert status.completion_time == NOW
    message = next(c for c in status.conditions if c.type == "Failed").message
    assert message.endswith(
        "; given up with their nodes: pod demo-a0-1-abcde on node n2 (no word since "
        "2026-11-23T11:59:00Z)"
    )
    (node,) = status.lost_nodes or ()
    assert node.pods == ("demo-a0-1-abcde",)


def test_the_next_gang_goes_elsewhere_if_it_can_after_a_fault_that_may_be_the_nodes() -> None:
    failures = (("HardwareFault", "n1", T), ("Internal", "n2", T), ("Hang", "n3", T),
                ("HardwareFault", "n1", T), ("Hang", "n4", StageName.PREPARE))  # fmt: skip
    past = tuple(PastFailure(failure_class=c, node=n, stage=stage) for c, n, stage in failures)
    actions = decide(make_facts(status_in(T, attempt=1, past_failures=past))).actions
    (job,) = (action.manifest for action in actions if action.kind == "Job")
    nodes = job and job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (wish,) = nodes["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [field["values"] for field in wish["preference"]["matchFields"]] == [["n1"], ["n3"]]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in nodes


@pytest.mark.parametrize("stage", [StageName.PREPARE, StageName.SCORE, StageName.EXPORT])
def test_the_pod_of_a_stage_goes_elsewhere_too(stage: StageName) -> None:
    """Also where the user lets it tolerate that a node does not answer."""
    lost = (LostNode(name="n1", since=LONG_AGO, pods=("demo-p0-0",)),)
    past = (PastFailure(failure_class="HardwareFault", node="n3", stage=T),)
    scorer = {"name": "own", "image": "scorer:1", "command": ["score"]}
    spec = make_spec(evaluation={"generation": {"scorers": [scorer]}})
    status = status_in(stage, attempt=1, lost_nodes=lost, past_failures=past)
    actions = decide(make_facts(status, spec=spec)).actions
    (job,) = (action.manifest for action in actions if action.kind == "Job")
    nodes = job and job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (must,) = nodes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [field["values"] for field in must["matchFields"]] == [["n1"]]
    (wish,) = nodes["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [field["values"] for field in wish["preference"]["matchFields"]] == [["n3"]]
