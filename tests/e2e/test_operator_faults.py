"""Gangs fail, are evicted, find no room; the operator is killed meanwhile: on the real cluster.

The operator is our image, installed by our chart; the pods run a small process that keeps the
trainer's contract. What must hold is read from the cluster, not from the operator's own word.
Hundreds of kills, and suspending, deleting and creating again at every stage: tests/faults.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import GRACE_SECONDS, Jobs, evict
from e2e.kubectl import Kubectl, wait_for
from e2e.local_cluster_kit import RESTRICTED, RESTRICTED_CONTAINER, pod
from e2e.place import OperatorProcess, own_operator

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

RELEASE = "faults"


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    """A namespace with a shared claim, and an operator that watches nothing else."""
    trainer = upload_contract_trainer(cluster.registry)
    with own_operator(kubectl, RELEASE, "operator-faults", images.operator, trainer) as namespace:
        yield namespace


@pytest.fixture
def jobs(kubectl: Kubectl, place: str) -> Jobs:
    return Jobs(kubectl, place)


@pytest.mark.side_by_side
def test_a_dead_rank_ends_the_gang_and_is_named(jobs: Jobs) -> None:
    fail = [{"name": "TORCH_TEST_FAIL", "value": "1:4:71"}]
    jobs.apply("dead", steps=120, workers={"env": fail}, recovery={"maxRestarts": 0})
    status = jobs.wait_phase("dead", "Failed")
    failure = status["failure"]
    assert (failure["class"], failure["rank"], failure["exitCode"]) == ("CudaOom", 1, 71)
    assert failure["pod"].startswith("dead-a0-1-") and failure["node"]
    assert failure["lines"] == ["one", "two"]
    assert not jobs.living_pods("dead"), "terminal, so no container runs any more"
    wait_for(
        "the survivor is gone; its object may outlive it a moment",
        lambda: not any("dead-a0-0" in pod for pod in jobs.children("dead", "pods")),
        GRACE_SECONDS,
    )
    assert jobs.reason("dead") == "CudaOom" and "restarts" not in status


def told_to_fail(code: int, *, attempts: int = 99) -> dict[str, Any]:
    """Pod 1 fails at step 7; checkpoints are those of steps 5, 10, …"""
    variables = {
        "TORCH_TEST_FAIL": f"1:7:{code}",
        "TORCH_TEST_FAIL_ATTEMPTS": str(attempts),
        "TORCH_TEST_SAVE_STEPS": "5",
    }
    return {"env": [{"name": name, "value": value} for name, value in variables.items()]}


@pytest.mark.side_by_side
def test_a_gang_that_fails_once_goes_on_from_its_checkpoint_and_says_what_it_cost(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    jobs.apply("once", steps=12, workers=told_to_fail(70, attempts=1))
    status = jobs.wait_phase("once", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert status["restarts"] == {
        "program": 1, "infrastructure": 0, "stepsRedone": 2, "total": 1,
    }  # fmt: skip
    (past,) = status["pastFailures"]
    assert past.pop("at") and past.pop("node")
    assert past == {
        "class": "Internal", "stage": "train", "attempt": 0, "step": 7, "budget": "Program",
        "stepsRedone": 2,
    }  # fmt: skip
    assert status["resumedFrom"] == {"attempt": 0, "step": 5}
    assert "failure" not in status and status["attempt"] == 1
    assert_gangs_follow_each_other(jobs, kubectl, "once", 2)
    events = kubectl.json(
        "get", "events", "--field-selector", "involvedObject.name=once", namespace=jobs.namespace
    )["items"]  # fmt: skip
    told = [event["message"] for event in events if event["reason"] == "Restarting"]
    assert len(told) == 1 and len(events) <= 8
    assert told[0].startswith("trying again in 5 s (restart 1 of 3 after failures of the program")
    jobs.patch("once", ttlSecondsAfterFinished=0)
    wait_for("its children are gone", lambda: not jobs.children("once"), GRACE_SECONDS)
    assert jobs.status("once")["phase"] == "Succeeded"


def assert_gangs_follow_each_other(jobs: Jobs, kubectl: Kubectl, name: str, count: int) -> None:
    """Each gang began after the one before it had no pod left, by Kubernetes' own clock."""
    found = kubectl.json(
        "get", "jobs", "-l", f"finetune.dev/job={name},finetune.dev/stage=train",
        namespace=jobs.namespace,
    )["items"]  # fmt: skip
    gangs = sorted(found, key=lambda job: int(job["metadata"]["labels"]["finetune.dev/attempt"]))
    assert [gang["metadata"]["name"] for gang in gangs] == [f"{name}-a{n}" for n in range(count)]
    for before, after in itertools.pairwise(gangs):
        failed = next(c for c in before["status"]["conditions"] if c["type"] == "Failed")
        assert failed["lastTransitionTime"] <= after["metadata"]["creationTimestamp"]


@pytest.mark.side_by_side
def test_a_gang_that_fails_for_ever_spends_its_budget_and_says_so_in_one_sentence(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    recovery = {"maxRestarts": 2, "backoffSeconds": {"initial": 1, "max": 2}}
    jobs.apply("doomed", steps=12, workers=told_to_fail(1), recovery=recovery)
    status = jobs.wait_phase("doomed", "Failed", "Succeeded")
    conditions = {c["type"]: c for c in status["conditions"]}
    assert (conditions["Failed"]["status"], conditions["Stalled"]["status"]) == ("True", "True")
    assert conditions["Failed"]["reason"] == "RestartsExhausted"
    assert conditions["Failed"]["message"].endswith(
        "told to fail; 2 restarts after failures of the program did not help "
        "(spec.recovery.maxRestarts: 2)"
    )
    assert status["restarts"] == {
        "program": 2, "infrastructure": 0, "stepsRedone": 4, "total": 2,
    }  # fmt: skip
    assert (status["attempt"], status["failure"]["attempt"]) == (2, 2)
    assert_gangs_follow_each_other(jobs, kubectl, "doomed", 3)
    assert not jobs.living_pods("doomed")


@pytest.mark.side_by_side
def test_a_failure_that_repeats_itself_ends_the_job_although_there_is_budget(jobs: Jobs) -> None:
    recovery = {"maxRestarts": 9, "backoffSeconds": {"initial": 1}}
    jobs.apply("stubborn", steps=12, workers=told_to_fail(70), recovery=recovery)
    status = jobs.wait_phase("stubborn", "Failed", "Succeeded")
    assert jobs.reason("stubborn") == "RepeatedFailure"
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Failed")
    assert "attempt 0 failed in the same way at step 7" in message
    assert (status["attempt"], status["restarts"]["program"]) == (1, 1)


@pytest.mark.side_by_side
def test_training_that_runs_out_of_memory_goes_on_smaller_with_the_same_global_batch(
    jobs: Jobs,
) -> None:
    fits = {"name": "TORCH_TEST_FITS", "value": "2"}
    jobs.apply(
        "large",
        steps=5,
        training={"microBatchSize": 8, "globalBatchSize": 32},
        workers={"env": [fits]},
        recovery={"maxRestarts": 1, "backoffSeconds": {"initial": 1, "max": 2}},
    )
    status = jobs.wait_phase("large", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status.get("failure")
    resolved = status["resolved"]
    assert [step["change"] for step in resolved["adaptations"]] == [
        "microBatchSize 8 → 4, accumulation 2 → 4",
        "microBatchSize 4 → 2, accumulation 4 → 8",
    ]
    assert (resolved["microBatchSize"], resolved["accumulation"]) == (2, 8)
    assert resolved["globalBatchSize"] == 32
    assert {past["class"] for past in status["pastFailures"]} == {"CudaOom"}
    restarts = status["restarts"]
    assert (restarts["program"], restarts["memory"], status["attempt"]) == (0, 2, 2)


@pytest.mark.side_by_side
def test_deleted_and_evicted_pods_are_paid_by_the_other_budget(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    jobs.apply("moved", steps=25, recovery={"maxRestarts": 0, "backoffSeconds": {"initial": 1}})

    def pod_of(attempt: int) -> str:
        status = jobs.status("moved")
        training = status.get("phase") == "Training" and status.get("attempt") == attempt
        if not training or not (status.get("progress") or {}).get("step"):
            return ""
        pods = jobs.children("moved", "pods")
        return next(n for n in pods if n.startswith(f"Pod/moved-a{attempt}-1")).partition("/")[2]

    victim = wait_for("the first gang trains", lambda: pod_of(0))
    kubectl("delete", "pod", victim, "--wait=false", namespace=jobs.namespace)
    victim = wait_for("the second gang trains", lambda: pod_of(1))
    evict(kubectl, kubectl.json("get", "pod", victim, namespace=jobs.namespace))
    status = jobs.wait_phase("moved", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status
    assert (status["restarts"]["program"], status["restarts"]["infrastructure"]) == (0, 2)
    first, second = status["pastFailures"]
    assert first["class"] in ("Preempted", "Evicted") and second["class"] == "Evicted"
    assert (first["budget"], second["budget"]) == ("Infrastructure", "Infrastructure")
    assert_gangs_follow_each_other(jobs, kubectl, "moved", 3)


@pytest.mark.side_by_side
def test_a_gang_that_the_scheduler_preempts_waits_for_room_at_no_cost_of_its_own(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    whole = {"count": 3, "gpusPerWorker": 2}  # each of the three nodes has two GPUs
    recovery = {"maxRestarts": 0, "backoffSeconds": {"initial": 1}}
    jobs.apply("humble", steps=25, workers=whole, recovery=recovery)
    wait_for("steps", lambda: (jobs.status("humble").get("progress") or {}).get("step", 0) > 3)
    important = f"{jobs.namespace}-important"
    kubectl.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": important},
            "value": 1000,
        }
    )
    try:
        gpus = {"resources": {"limits": {"nvidia.com/gpu": 2}}, **RESTRICTED_CONTAINER}
        spec = {"priorityClassName": important, "container": gpus, **RESTRICTED}
        kubectl.apply(pod(important, "sleep 600", **spec), namespace=jobs.namespace)
        wait_for(
            "it waits for room",
            lambda: (
                jobs.status("humble").get("attempt") == 1
                and jobs.reason("humble") == "Unschedulable"
            ),
        )
        assert "Insufficient nvidia.com/gpu" in jobs.status("humble")["pendingReason"]
    finally:
        kubectl("delete", "pod", important, "--ignore-not-found", namespace=jobs.namespace)
        kubectl("delete", "priorityclass", important)
    status = jobs.wait_phase("humble", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status
    assert (status["restarts"]["program"], status["restarts"]["infrastructure"]) == (0, 1)
    (past,) = status["pastFailures"]
    assert (past["class"], past["budget"]) == ("Evicted", "Infrastructure")
    assert status["resumedFrom"]["step"] > 3, "it saved within the grace period"
    assert_gangs_follow_each_other(jobs, kubectl, "humble", 2)


def test_an_operator_killed_while_a_gang_restarts_pays_once(
    jobs: Jobs, kubectl: Kubectl, place: str
) -> None:
    process = OperatorProcess(kubectl, place, RELEASE)
    recovery = {"backoffSeconds": {"initial": 8}}
    jobs.apply("interrupted", steps=12, workers=told_to_fail(70, attempts=1), recovery=recovery)
    wait_for("it goes down", lambda: jobs.status("interrupted").get("phase") == "Restarting")
    process.kill()
    status = jobs.wait_phase("interrupted", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert (status["attempt"], status["restarts"]["total"]) == (1, 1)
    assert [past["attempt"] for past in status["pastFailures"]] == [0]
    assert_gangs_follow_each_other(jobs, kubectl, "interrupted", 2)


@pytest.mark.side_by_side
def test_a_foreign_service_of_our_name_is_named_and_left_alone(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    }
    kubectl.apply(service, namespace=jobs.namespace)
    jobs.apply("taken", steps=2)
    wait_for("the conflict is told", lambda: jobs.reason("taken") == "NameConflict")
    assert "Service taken" in jobs.status("taken")["pendingReason"]
    found = kubectl.json("get", "service", "taken", namespace=jobs.namespace)
    assert found["spec"]["selector"] == {"app": "theirs"}
    assert "ownerReferences" not in found["metadata"]
    kubectl("delete", "service", "taken", namespace=jobs.namespace)
    assert jobs.wait_phase("taken", "Succeeded", "Failed")["phase"] == "Succeeded"


@pytest.mark.side_by_side
def test_a_gang_that_fits_on_no_node_is_explained_given_back_and_heals(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    selector = {"nodeSelector": {"pool": jobs.namespace}}
    jobs.apply("nowhere", steps=2, workers=selector, startDeadlineSeconds=20)
    wait_for("the reason", lambda: jobs.reason("nowhere") == "Unschedulable")
    reason = jobs.status("nowhere")["pendingReason"]
    assert reason.startswith("2 of 2 pods cannot be scheduled: 0/3 nodes are available:")
    wait_for("given back", lambda: jobs.reason("nowhere") == "StartTimeout")
    gone = lambda: not any("nowhere-a0" in c for c in jobs.children("nowhere", "pods"))  # noqa: E731
    wait_for("no pod left", gone)
    wait_for("the next attempt", lambda: jobs.status("nowhere").get("attempt", 0) >= 1)
    assert jobs.status("nowhere")["startTimeouts"] >= 1
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    kubectl("label", "node", node, f"pool={jobs.namespace}")
    try:
        status = jobs.wait_phase("nowhere", "Succeeded", "Failed")
    finally:
        kubectl("label", "node", node, "pool-")
    assert status["phase"] == "Succeeded"
    assert status.get("restarts", {}).get("total", 0) == 0, "waiting costs no restart"


def test_a_quota_is_named_and_heals_when_it_goes(jobs: Jobs, kubectl: Kubectl) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-pods"},
        "spec": {"hard": {"pods": "1"}},
    }
    kubectl.apply(quota, namespace=jobs.namespace)
    jobs.apply("poor", steps=2)
    wait_for("the quota is told", lambda: jobs.reason("poor") == "QuotaExceeded")
    assert "exceeded quota: no-pods" in jobs.status("poor")["pendingReason"]
    kubectl("delete", "resourcequota", "no-pods", namespace=jobs.namespace)
    status = jobs.wait_phase("poor", "Succeeded", "Failed", seconds=600)
    assert status["phase"] == "Succeeded" and "pendingReason" not in status


@pytest.mark.side_by_side
def test_a_job_whose_kubernetes_job_was_deleted_by_hand_says_so_and_goes_on(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    jobs.apply("robbed", steps=20)
    jobs.wait_phase("robbed", "Training")
    kubectl("delete", "job", "robbed-a0", namespace=jobs.namespace)
    status = jobs.wait_phase("robbed", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    (past,) = status["pastFailures"]
    assert (past["class"], past["attempt"], past["budget"]) == ("JobVanished", 0, "Infrastructure")
    assert not any(pod.startswith("robbed-a0") for pod in jobs.living_pods("robbed"))
    gangs = jobs.children("robbed", "jobs")
    assert "Job/robbed-a0" not in gangs and "Job/robbed-a1" in gangs


@pytest.mark.side_by_side
def test_events_of_an_undisturbed_job_are_few(jobs: Jobs, kubectl: Kubectl) -> None:
    jobs.apply("calm", steps=3)
    jobs.wait_phase("calm", "Succeeded")
    time.sleep(2)
    events = kubectl.json(
        "get", "events", "--field-selector", "involvedObject.name=calm", namespace=jobs.namespace
    )["items"]  # fmt: skip
    reasons = [event["reason"] for event in events]
    assert {"Training", "Succeeded"} <= set(reasons)
    assert len(reasons) <= 8 and len(set(reasons)) == len(reasons)
