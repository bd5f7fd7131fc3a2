"""A gang of three with room for two, then for three again: on the real cluster, with a small
process for a trainer.

What the sizes are is read from Jobs, pods and run.json, not only from the operator's own word.
Going on with another number of ranks is tried with the real training loop in ``tests/parity``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import Jobs, conditions, evict
from e2e.kubectl import Kubectl, wait_for
from e2e.place import OperatorProcess, another_node, own_operator

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

RELEASE = "elastic"
SHRINK_SECONDS, GROW_SECONDS = 10, 20
WHOLE = {"count": 3, "gpusPerWorker": 2}
"""One pod a node: each of the three nodes has two GPUs."""
BATCH = {"globalBatchSize": 12, "microBatchSize": 1}
"""Six ranks share it, four, and two."""


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    trainer = upload_contract_trainer(cluster.registry)
    with own_operator(kubectl, RELEASE, "elastic", images.operator, trainer) as namespace:
        yield namespace


@pytest.fixture
def jobs(kubectl: Kubectl, place: str) -> Jobs:
    return Jobs(kubectl, place)


@pytest.fixture
def node(kubectl: Kubectl, place: str) -> Iterator[str]:
    """A node that takes nothing new, after a test has cordoned it, and all again afterwards."""
    name = another_node(kubectl, place, RELEASE)
    yield name
    kubectl("uncordon", name)


def gang(jobs: Jobs, kubectl: Kubectl, name: str, attempt: int) -> list[dict[str, Any]]:
    selector = f"finetune.dev/job={name},finetune.dev/stage=train,finetune.dev/attempt={attempt}"
    items: list[dict[str, Any]] = kubectl.json(
        "get", "pods", "-l", selector, namespace=jobs.namespace
    )["items"]
    return items


def size_of_job(jobs: Jobs, kubectl: Kubectl, name: str, attempt: int) -> tuple[int, int]:
    made = kubectl.json("get", "job", f"{name}-a{attempt}", namespace=jobs.namespace)["spec"]
    return made["completions"], made["parallelism"]


def told_to_trainer(jobs: Jobs, kubectl: Kubectl, name: str) -> dict[str, Any]:
    data = kubectl.json("get", "configmap", f"{name}-run", namespace=jobs.namespace)["data"]
    config: dict[str, Any] = json.loads(data["run.json"])
    return config


def step(jobs: Jobs, name: str) -> int:
    return int((jobs.status(name).get("progress") or {}).get("step") or 0)


def training(jobs: Jobs, name: str, attempt: int) -> dict[str, Any]:
    """The status once this attempt trains and has told a step."""

    def probe() -> Any:
        status = jobs.status(name)
        there = status.get("attempt") == attempt and status.get("phase") == "Training"
        return status if there and status.get("resumedFrom") else None

    status: dict[str, Any] = wait_for(f"attempt {attempt} of {name} trains", probe)
    return status


@pytest.mark.side_by_side
def test_a_gang_goes_on_with_two_of_three_and_grows_again(
    kubectl: Kubectl, jobs: Jobs, place: str, node: str
) -> None:
    limits = {"min": 1, "shrinkAfterSeconds": SHRINK_SECONDS, "growAfterSeconds": GROW_SECONDS}
    saves = [{"name": "TORCH_TEST_SAVE_SECONDS", "value": "5"}]
    jobs.apply(
        "gang", steps=90, training=BATCH, workers={**WHOLE, "env": saves},
        recovery={"maxRestarts": 0, "backoffSeconds": {"initial": 1}, "elastic": limits},
    )  # fmt: skip
    jobs.wait_phase("gang", "Training")
    wait_for("steps", lambda: step(jobs, "gang") > 5)
    assert jobs.status("gang")["resolved"]["workers"] == 3

    kubectl("cordon", node)
    before = step(jobs, "gang")
    (lost,) = [p for p in gang(jobs, kubectl, "gang", 0) if p["spec"]["nodeName"] == node]
    evict(kubectl, lost)
    status = training(jobs, "gang", 2)
    assert status["resolved"]["workers"] == 2 and status["resolved"]["worldSize"] == 4
    assert status["resolved"]["globalBatchSize"] == BATCH["globalBatchSize"]
    assert size_of_job(jobs, kubectl, "gang", 2) == (2, 2)
    config = told_to_trainer(jobs, kubectl, "gang")
    assert config["workers"]["count"] == 2
    assert config["training"]["microBatchSize"] * config["training"]["accumulation"] == 3
    assert node not in {pod["spec"]["nodeName"] for pod in gang(jobs, kubectl, "gang", 2)}
    (resize,) = status["resolved"]["resizes"]
    assert (resize["workersBefore"], resize["workers"], resize["wanted"]) == (3, 2, 3)
    assert resize["attempt"] == 1 and "1 of 3 pods cannot be scheduled" in resize["reason"]
    main = conditions(status)["Reconciling"]
    assert main["message"].startswith("all ranks train (2 of 3 workers: 1 of 3 pods cannot be")
    assert status["restarts"]["infrastructure"] == status["restarts"]["total"] == 1
    assert status["restarts"]["resizes"] == 1
    assert status["resumedFrom"]["step"] >= before, "it saved when it was evicted"

    kubectl("uncordon", node)
    wait_for("it ends to grow", lambda: jobs.reason("gang") == "Resizing", 120, every=0.2)
    seen = step(jobs, "gang")
    OperatorProcess(kubectl, place, RELEASE).kill()
    status = training(jobs, "gang", 3)
    assert status["resolved"]["workers"] == 3 and status["resolved"]["worldSize"] == 6
    assert size_of_job(jobs, kubectl, "gang", 3) == (3, 3)
    assert {pod["spec"]["nodeName"] for pod in gang(jobs, kubectl, "gang", 3)} > {node}
    assert [each["workers"] for each in status["resolved"]["resizes"]] == [2, 3]
    assert status["restarts"]["resizes"] == 2 and status["restarts"]["total"] == 1
    assert status["resumedFrom"]["attempt"] == 2 and status["resumedFrom"]["step"] >= seen
    assert "failure" not in status and len(status["pastFailures"]) == 1, "growing is no failure"

    status = jobs.wait_phase("gang", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] == 3 and status["progress"]["step"] == 90
    assert status["goodput"]["seconds"]["restart"] > 0
    events = kubectl.json("get", "events", namespace=place)["items"]
    told = {e["reason"] for e in events if e["involvedObject"]["name"] == "gang"}
    assert "Resized" in told


@pytest.mark.side_by_side
def test_a_rigid_gang_is_resized_by_hand_while_it_sleeps(kubectl: Kubectl, jobs: Jobs) -> None:
    jobs.apply("by-hand", steps=40, training=BATCH, workers={"count": 3})  # it needs no GPUs
    jobs.wait_phase("by-hand", "Training")
    wait_for("steps", lambda: step(jobs, "by-hand") > 5)
    jobs.patch("by-hand", suspend=True)
    jobs.wait_phase("by-hand", "Suspended")
    jobs.patch("by-hand", suspend=False, workers={"count": 2})
    status = training(jobs, "by-hand", 1)
    assert size_of_job(jobs, kubectl, "by-hand", 1) == (2, 2)
    assert status["resolved"]["workers"] == 2 and "resizes" not in status["resolved"]
    assert status["resolved"]["globalBatchSize"] == BATCH["globalBatchSize"]
    assert status["resumedFrom"]["attempt"] == 0 and status["resumedFrom"]["step"] > 5
    status = jobs.wait_phase("by-hand", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded" and "restarts" not in status
