"""A node dies under several jobs at once: on the real cluster, with a small process for a trainer.

What must hold is read from the cluster; the real trainer meets its lost nodes in
``test_lost_nodes_of_trainer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for
from e2e.place import another_node, own_operator

from local_cluster import LocalCluster, chaos

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

RELEASE = "lost"


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    trainer = upload_contract_trainer(cluster.registry)
    with own_operator(kubectl, RELEASE, "lost-nodes", images.operator, trainer) as namespace:
        yield namespace


@pytest.fixture
def jobs(kubectl: Kubectl, place: str) -> Jobs:
    return Jobs(kubectl, place)


@pytest.fixture
def victim(cluster: LocalCluster, kubectl: Kubectl, place: str) -> Iterator[str]:
    """A node that the operator is not on; whole again afterwards."""
    name = another_node(kubectl, place, RELEASE)
    yield name
    chaos.heal(cluster, cluster.node(name))


def preferring(node: str) -> dict[str, Any]:
    """The affinity of pods that would rather be there."""
    there = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    wish = {"weight": 100, "preference": {"matchExpressions": [there]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def pods(jobs: Jobs, kubectl: Kubectl, name: str) -> dict[str, dict[str, Any]]:
    found = kubectl.json(
        "get", "pods", "-l", f"finetune.dev/job={name},finetune.dev/stage=train",
        namespace=jobs.namespace,
    )["items"]  # fmt: skip
    return {pod["metadata"]["name"]: pod for pod in found}


def test_a_killed_node_is_named_and_every_job_goes_its_way_without_it(
    cluster: LocalCluster, kubectl: Kubectl, jobs: Jobs, victim: str
) -> None:
    saves = [{"name": "TORCH_TEST_SAVE_STEPS", "value": "5"}]
    workers = {"affinity": preferring(victim), "env": saves}
    ways: dict[str, dict[str, Any]] = {
        "goes-on": {"maxRestarts": 0},
        "gives-up": {"maxInfrastructureRestarts": 0},
        "sleeps": {},
        "deleted": {},
    }
    for name, budgets in ways.items():
        recovery = {"nodeLostAfterSeconds": 10, "backoffSeconds": {"initial": 1}, **budgets}
        jobs.apply(name, steps=80, workers={**workers}, recovery=recovery)
    there: dict[str, set[str]] = {}
    for name in ways:
        jobs.wait_phase(name, "Training")
        wait_for("steps", lambda n=name: (jobs.status(n).get("progress") or {}).get("step", 0) > 5)
        found = pods(jobs, kubectl, name)
        there[name] = {pod for pod in found if found[pod]["spec"]["nodeName"] == victim}
        assert there[name], "it has a pod on the node that is about to die"

    chaos.kill(cluster, cluster.node(victim))
    jobs.patch("sleeps", suspend=True)
    jobs.delete("deleted")
    wait_for("it is gone at once", lambda: "deleted" not in jobs.names(), 10)
    jobs.apply("deleted", steps=2, recovery={"nodeLostAfterSeconds": 10})
    wait_for("it waits", lambda: jobs.reason("deleted") == "PreviousJobTerminating", 30)

    def named(status: dict[str, Any]) -> dict[str, set[str]]:
        return {node["name"]: set(node["pods"]) for node in status.get("lostNodes", ())}

    def left(name: str) -> set[str]:
        return {pod for pod in jobs.living_pods(name) if "-a0-" in pod}

    status = jobs.wait_phase("gives-up", "Failed", "Succeeded")
    failed = conditions(status)["Failed"]
    assert (failed["status"], failed["reason"]) == ("True", "NodeLost")
    assert status["failure"]["node"] == victim and status["failure"]["pod"] in there["gives-up"]
    assert f"node {victim} has not answered since" in failed["message"]
    assert named(status) == {victim: there["gives-up"]}
    assert left("gives-up") == there["gives-up"], "no other pod is left"

    assert named(jobs.wait_phase("sleeps", "Suspended")) == {victim: there["sleeps"]}
    assert left("sleeps") == there["sleeps"]
    jobs.patch("sleeps", suspend=False)

    def restarted() -> Any:
        status = jobs.status("goes-on")
        return status if status.get("attempt") == 1 else None

    status = wait_for("the next attempt", restarted)
    assert named(status) == {victim: there["goes-on"]}, "it is named before a gang begins beside it"
    for name in ("goes-on", "sleeps", "deleted"):
        status = jobs.wait_phase(name, "Succeeded", "Failed")
        assert status["phase"] == "Succeeded", status
        new = {pod for pod in pods(jobs, kubectl, name) if pod not in there[name]}
        nodes = {pods(jobs, kubectl, name)[pod]["spec"]["nodeName"] for pod in new}
        assert nodes and victim not in nodes
        assert left(name) & there[name] == there[name], "nobody deleted it by force"
        if name != "deleted":
            assert named(status) == {victim: there[name]}
    (past,) = jobs.status("goes-on")["pastFailures"]
    assert (past["class"], past["node"], past["budget"]) == ("NodeLost", victim, "Infrastructure")
    assert jobs.status("goes-on")["resumedFrom"]["step"] >= 5
    assert "restarts" not in jobs.status("sleeps"), "suspending costs nothing"

    before = {name: jobs.status(name) for name in ways}
    chaos.heal(cluster, cluster.node(victim))
    for name in ways:
        wait_for(f"{name}: its old pods go", lambda n=name: not left(n) & there[n], 90)
        wait_for("its status knows", lambda n=name: "lostNodes" not in jobs.status(n), 30)
        after = jobs.status(name)
        for field in ("phase", "attempt", "completionTime", "restarts", "failure"):
            assert after.get(field) == before[name].get(field), (name, field)


def test_a_node_that_restarts_is_no_failure_of_the_program(
    cluster: LocalCluster, kubectl: Kubectl, jobs: Jobs, victim: str
) -> None:
    saves = [{"name": "TORCH_TEST_SAVE_STEPS", "value": "5"}]
    recovery = {"maxRestarts": 0, "backoffSeconds": {"initial": 1}}
    workers = {"affinity": preferring(victim), "env": saves}
    jobs.apply("rebooted", steps=30, workers=workers, recovery=recovery)
    jobs.wait_phase("rebooted", "Training")
    wait_for("steps", lambda: (jobs.status("rebooted").get("progress") or {}).get("step", 0) > 5)
    chaos.kill(cluster, cluster.node(victim))
    chaos.heal(cluster, cluster.node(victim))
    status = jobs.wait_phase("rebooted", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status.get("failure")
    (past,) = status["pastFailures"]
    assert (past["class"], past["node"], past["budget"]) == ("NodeLost", victim, "Infrastructure")
    assert status["restarts"]["program"] == 0 and "lostNodes" not in status
