"""Raw objects are cut down to what decisions look at; what nobody looks at is no news."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.engine.store import Key
from finetune_operator.reading import read_child_job, read_child_pod, read_job

META: dict[str, Any] = {
    "namespace": "team-a",
    "name": "demo-a0",
    "uid": "u1",
    "resourceVersion": "12",
    "creationTimestamp": "2026-11-23T12:00:00Z",
    "labels": {
        "finetune.dev/job": "demo",
        "finetune.dev/uid": "owner",
        "finetune.dev/stage": "train",
        "finetune.dev/attempt": "3",
        "batch.kubernetes.io/job-completion-index": "1",
    },
}
POD: dict[str, Any] = {
    "metadata": {
        **META,
        "ownerReferences": [{"kind": "Job", "uid": "j1", "controller": True}],
        "annotations": {"noise": "1"},
    },
    "spec": {"nodeName": "n1", "containers": [{"image": "example.test/t:1", "env": []}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"state": {"running": {}}}],
    },
}


def pod(**status: Any) -> Any:
    raw = copy.deepcopy(POD)
    raw["status"].update(status)
    return read_child_pod(raw)


def ready(status: str, containers: str, **fields: str) -> list[dict[str, str]]:
    since = {"lastTransitionTime": "2026-11-23T12:05:00Z"}
    return [
        {"type": "Ready", "status": status, **since, **fields},
        {"type": "ContainersReady", "status": containers, **fields},
    ]


def test_a_pod_whose_node_does_not_answer_is_told_from_one_that_is_not_ready() -> None:
    """As the node controller leaves it, and as kubelets write it themselves."""
    silent = pod(conditions=ready("False", "True"))
    assert silent.silent == datetime(2026, 11, 23, 12, 5, tzinfo=UTC) and not silent.ready
    for spoken in (
        ready("True", "True"),
        ready("False", "False", reason="ContainersNotReady"),
        ready("False", "False", reason="PodCompleted"),
        [ready("False", "", reason="ReadinessGatesNotReady")[0], ready("", "True")[1]],
        ready("False", "False"),
        [],
    ):
        assert pod(conditions=spoken).silent is None, spoken


def test_a_pod_that_was_asked_to_go_says_until_when() -> None:
    raw = copy.deepcopy(POD)
    raw["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:30Z"
    asked = read_child_pod(raw)
    assert asked.deleting and asked.due == datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
    assert not pod().deleting


def test_a_pod_is_known_by_job_stage_attempt_and_index() -> None:
    seen = pod()
    assert seen.key == Key("team-a", "demo")
    assert (seen.stage, seen.attempt, seen.index) == ("train", 3, 1)
    assert (seen.job_uid, seen.owner_uid) == ("j1", "owner")
    assert (seen.ready, seen.node, seen.ip, seen.image) == (
        True,
        "n1",
        "10.0.0.7",
        "example.test/t:1",
    )


def test_changes_that_no_decision_looks_at_are_no_news() -> None:
    other = copy.deepcopy(POD)
    other["metadata"]["resourceVersion"] = "13"
    other["metadata"]["annotations"]["noise"] = "2"
    other["status"]["qosClass"] = "Burstable"
    assert read_child_pod(other) == pod()
    assert read_child_pod(other).version == 13


def test_the_reasons_of_waiting_and_ending_are_read() -> None:
    waiting = pod(containerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull"}}}])
    assert waiting.waiting == ("ErrImagePull", "")
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-23T12:00:05Z"}
    dead = pod(phase="Failed", containerStatuses=[{"state": {"terminated": ended}}])
    assert dead.terminated is not None
    assert (dead.terminated.exit_code, dead.terminated.reason) == (137, "OOMKilled")
    assert dead.finished
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes",
        "lastTransitionTime": "2026-11-23T12:00:01Z",
    }
    assert pod(conditions=[unscheduled]).unscheduled[:2] == ("Unschedulable", "0/3 nodes")


def test_when_a_pod_came_to_its_node_is_told_by_two_clocks() -> None:
    placed = {"type": "PodScheduled", "status": "True"}
    placed["lastTransitionTime"] = "2026-11-23T12:00:01Z"
    found = pod(conditions=[placed], startTime="2026-11-23T11:58:02Z")
    assert found.acknowledged - found.scheduled == timedelta(seconds=-119)
    assert pod().acknowledged is None


def test_disruptions_are_told_from_failures() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    assert pod(conditions=[target]).disruption == "PreemptionByScheduler"
    assert pod(reason="Evicted").disruption == "Evicted"
    assert pod().disruption == ""


@pytest.mark.parametrize(
    "said",  # the formats in pkg/kubelet/eviction/helpers.go of Kubernetes 1.36.3, with their space
    [
        "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. ",
        'Container trainer exceeded its local ephemeral storage limit "2Gi". ',
        'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ',
    ],
)
def test_an_eviction_for_what_the_pod_used_itself_is_no_disruption(said: str) -> None:
    evicted = pod(phase="Failed", reason="Evicted", message=said)
    assert (evicted.overfull, evicted.disruption) == (said.strip(), "")
    assert pod(phase="Failed", reason="Error", message=said).overfull == ""


@pytest.mark.parametrize(
    "said",  # nodeLowMessageFmt with thresholdMetMessageFmt and containerMessageFmt, and
    # nodeConditionMessageFmt of the same file
    [
        "The node was low on resource: ephemeral-storage. Threshold quantity: 5Gi, available: 4Gi. "
        "Container trainer was using 3Gi, request is 0, has larger consumption of "
        "ephemeral-storage. ",
        "The node had condition: [DiskPressure]. ",
    ],
)
def test_an_eviction_for_the_node_is_one_even_if_the_pod_used_much(said: str) -> None:
    evicted = pod(phase="Failed", reason="Evicted", message=said)
    assert (evicted.overfull, evicted.disruption) == ("", "Evicted")


def test_a_kubernetes_job_is_known_by_its_true_conditions() -> None:
    conditions = [
        {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"},
        {"type": "Complete", "status": "False"},
    ]
    owner = {"kind": "FineTuneJob", "uid": "owner", "controller": True}
    raw = {
        "metadata": {**META, "ownerReferences": [owner]},
        "spec": {"parallelism": 4},
        "status": {"conditions": conditions, "failed": 2},
    }
    seen = read_child_job(raw)
    assert (seen.owner_uid, seen.parallelism, seen.failed) == ("owner", 4, 2)
    assert seen.failing == ("BackoffLimitExceeded", "")
    assert not seen.complete and seen.failure is None and not seen.finished


def test_objects_with_garbage_for_labels_are_read_without_a_crash() -> None:
    labels = {"finetune.dev/job": "demo", "finetune.dev/attempt": "x" * 99, "other": None}
    bare = {"metadata": {**META, "labels": labels}}
    assert read_child_job(bare).attempt == 0
    assert read_child_pod({**bare, "status": None}).phase == "Pending"
    assert read_job({"metadata": META}).spec == {}


def scoring(**status: Any) -> Any:
    raw = copy.deepcopy(POD)
    raw["metadata"]["labels"]["finetune.dev/stage"] = "score"
    raw["status"].update(status)
    return read_child_pod(raw)


def container(name: str, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def ended(code: int, message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": "Error"}}


def test_a_container_of_the_beginning_that_failed_speaks_for_its_pod() -> None:
    first = [container("fetch", **ended(0, "done")), container("augment", **ended(3, "no"))]
    main = [container("trainer", waiting={"reason": "PodInitializing"})]
    seen = pod(initContainerStatuses=first, containerStatuses=main)
    assert (seen.stuck_in, seen.terminated.exit_code) == ("augment", 3)
    going = [container("fetch", **ended(0)), container("augment", running={"startedAt": "x"})]
    unready = [{"type": "Ready", "status": "False"}]
    seen = pod(initContainerStatuses=going, containerStatuses=main, conditions=unready)
    assert (seen.stuck_in, seen.terminated, seen.ready) == ("", None, True)


def test_several_containers_have_ended_when_the_last_one_has() -> None:
    one, other = container("a", **ended(0, "{}")), container("b", running={})
    seen = scoring(containerStatuses=[one, other])
    assert seen.terminated is None and [name for name, _ in seen.ended] == ["a"]
    seen = scoring(containerStatuses=[one, container("b", **ended(1, "no"))])
    assert (seen.terminated.exit_code, [name for name, _ in seen.ended]) == (1, ["a", "b"])
    late = scoring(reason="DeadlineExceeded", containerStatuses=[one])
    assert late.overdue and not seen.overdue
    assert pod(containerStatuses=[one]).ended == ()
