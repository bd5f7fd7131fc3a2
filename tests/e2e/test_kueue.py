"""Gangs queue in a real Kueue: admission, refusal, eviction by a higher priority, re-admission.

The operator is our image; the pods run a small process that keeps the trainer's contract and ask
for GPUs that the nodes advertise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e import kueue
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import own_operator

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

GPUS = 2
PAID = {"program": 0, "infrastructure": 1, "total": 1}


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    """A namespace with an operator of its own and queue ``gold`` with two GPUs."""
    trainer = upload_contract_trainer(cluster.registry)
    name = "operator-queue"
    with (
        kueue.running_kueue(cluster, kubectl),
        own_operator(kubectl, "queue", name, images.operator, trainer) as namespace,
    ):
        kubectl.apply(kueue.cluster_queue("team", GPUS))
        for priority, value in (("research", 10), ("production", 100)):
            kubectl.apply(kueue.priority_class(priority, value))
        kubectl.apply(kueue.local_queue("gold", "team"), namespace=namespace)
        yield namespace


@pytest.fixture
def jobs(kubectl: Kubectl, place: str) -> Jobs:
    return Jobs(kubectl, place)


def queued(jobs: Jobs, name: str, *, workers: int = 2, priority: str = "", **spec: Any) -> None:
    wish = {"name": "gold", **({"priorityClass": priority} if priority else {})}
    jobs.apply(
        name, workers={"count": workers, "gpusPerWorker": 1}, **{"queue": wish, **spec}
    )  # fmt: skip


@pytest.mark.side_by_side
def test_an_evicted_gang_saves_queues_again_and_goes_on(jobs: Jobs, kubectl: Kubectl) -> None:
    queued(jobs, "low", steps=40, priority="research")
    jobs.wait_phase("low", "Training")
    seen = wait_for("steps", lambda: _step(jobs, "low") > 5 and _step(jobs, "low"))

    queued(jobs, "vip", steps=30, priority="production")
    jobs.wait_phase("low", "Queued")
    status = jobs.status("low")
    assert status["attempt"] == 1
    assert status["restarts"] == PAID, "no failure of the program"
    failure = status["pastFailures"][-1]
    assert failure["class"] == "Evicted"
    said = _words(jobs, "low", "insufficient unused quota for nvidia.com/gpu")
    assert said.startswith("Job low-a1 waits in queue gold:")
    assert jobs.wait_phase("vip", "Succeeded", "Failed")["phase"] == "Succeeded"

    status = jobs.wait_phase("low", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert status["attempt"] == 1 and status["restarts"] == {**PAID, "stepsRedone": 0}
    resumed = status["resumedFrom"]
    assert resumed["attempt"] == 0 and resumed["step"] >= seen, "it saved when it was evicted"
    assert "restarts" not in jobs.status("vip")


@pytest.mark.side_by_side
def test_a_gang_that_no_quota_can_hold_says_so_in_one_sentence(jobs: Jobs) -> None:
    queued(jobs, "wide", workers=GPUS + 1, steps=2)
    said = _words(jobs, "wide", "insufficient quota for nvidia.com/gpu")
    assert said.startswith("Job wide-a0 waits in queue gold:")
    assert f"> maximum capacity ({GPUS})" in said and "\n" not in said
    assert not any("wide-a0" in pod for pod in jobs.children("wide", "pods"))
    jobs.patch("wide", suspend=True)
    jobs.wait_phase("wide", "Suspended")
    assert not any("wide-a0" in child for child in jobs.children("wide", "jobs,pods"))
    jobs.delete("wide")


def test_a_queue_that_is_not_there_is_named_and_heals_when_it_comes(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    queued(jobs, "early", steps=2, queue={"name": "silver"})
    _words(jobs, "early", "silver doesn't exist")
    kubectl.apply(kueue.local_queue("silver", "team"), namespace=jobs.namespace)
    status = jobs.wait_phase("early", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded" and "pendingReason" not in status


def _words(jobs: Jobs, name: str, part: str) -> str:
    """The pending reason of a queued job, once it says this."""
    jobs.wait_phase(name, "Queued")

    def said() -> str | None:
        text = jobs.status(name).get("pendingReason") or ""
        return text if part in text else None

    return str(wait_for(f"{name} says {part}", said))


def _step(jobs: Jobs, name: str) -> int:
    return int((jobs.status(name).get("progress") or {}).get("step") or 0)
