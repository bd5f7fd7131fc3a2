"""Where a job's time goes, and budgets of GPU-hours, on the real cluster.

Nodes only advertise their GPUs; the pods run the process that keeps the trainer's contract.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for
from e2e.place import own_operator

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

GPUS = {"count": 2, "gpusPerWorker": 2}


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    trainer = upload_contract_trainer(cluster.registry)
    with own_operator(kubectl, "goodput", "goodput", images.operator, trainer) as namespace:
        yield namespace


@pytest.fixture
def jobs(kubectl: Kubectl, place: str) -> Jobs:
    return Jobs(kubectl, place)


def seconds_between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def env(**variables: object) -> list[dict[str, str]]:
    return [
        {"name": f"TORCH_TEST_{name}", "value": str(value)} for name, value in variables.items()
    ]


@pytest.mark.side_by_side
def test_a_restart_and_a_sleep_are_accounted_for_to_the_second(jobs: Jobs) -> None:
    """Pod 1 fails at step 8, and the checkpoint is that of step 5: steps 6 and 7 are done twice.

    It goes to sleep without saving, so a few more are.
    """
    seen = []

    def look() -> dict[str, Any]:
        status = jobs.status("rough")
        if account := status.get("goodput"):
            seen.append((status["startTime"], account))
        return status

    failing = env(FAIL="1:8:70", FAIL_ATTEMPTS=1, SAVE_STEPS=5)
    jobs.apply("rough", steps=35, seed=4, workers={**GPUS, "env": failing})
    wait_for("the second attempt's step 13", lambda: look().get("attempt") == 1
             and look().get("progress", {}).get("step", 0) >= 13)  # fmt: skip
    jobs.patch("rough", suspend=True)
    wait_for("sleep", lambda: look()["phase"] == "Suspended")
    time.sleep(10)
    jobs.patch("rough", suspend=False)
    wait_for("the end", lambda: look()["phase"] in ("Succeeded", "Failed"))
    status = look()
    assert (status["phase"], status["attempt"], status["restarts"]["program"]) == (
        "Succeeded",
        2,
        1,
    )

    for start, account in seen:
        spent = account["seconds"]
        assert sum(spent.values()) == seconds_between(start, account["until"]), account
    account = status["goodput"]
    spent = account["seconds"]
    print(f"{spent}, {account['percent']} % productive, {account['gpuSeconds']} GPU-seconds")
    assert account["until"] == status["completionTime"] and "current" not in account
    assert 10 <= spent["suspended"] <= 10 + 15
    assert 5 <= spent["restart"] <= 5 + 15, "the pause and the end of the pods"
    assert spent["prepare"] >= 4 and spent["export"] >= 4
    assert 34 <= spent["productive"] <= 35 + 6, "35 steps of a second and a little more"
    assert 2 <= spent["recompute"] <= 2 + 8
    gang = sum(spent[cause] for cause in ("init", "productive", "recompute", "checkpoint"))
    assert 4 * gang <= account["gpuSeconds"] <= 4 * (gang + 30)


@pytest.mark.side_by_side
def test_a_job_whose_hours_are_used_up_saves_and_waits_for_more(
    jobs: Jobs, kubectl: Kubectl
) -> None:
    seconds = 40
    hours = f"{seconds / 3600:.6f}"
    jobs.apply("thrifty", steps=25, workers=GPUS, budget={"gpuHours": hours})
    status = jobs.wait_phase("thrifty", "Suspended", "Succeeded", "Failed")
    assert status["phase"] == "Suspended"
    used = status["goodput"]["gpuSeconds"]
    print(f"{used} GPU-seconds of {seconds}")
    assert seconds <= used <= seconds + 4 * 15, "what the pods took to end"
    told = conditions(status)
    assert (told["Stalled"]["status"], told["Stalled"]["reason"]) == ("True", "BudgetExceeded")
    assert told["Failed"]["status"] == "False"
    assert f"the {hours} GPU-hours of this job are used up" in status["pendingReason"]
    assert not jobs.living_pods("thrifty")
    about = ("--field-selector", "involvedObject.name=thrifty,reason=BudgetExceeded")
    [held] = wait_for(
        "the job is held by an Event",
        lambda: kubectl.json("get", "events", *about, namespace=jobs.namespace)["items"],
    )
    assert held["type"] == "Warning" and "raise spec.budget.gpuHours" in held["message"]

    jobs.patch("thrifty", budget={"gpuHours": "1"})
    status = jobs.wait_phase("thrifty", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded" and "restarts" not in status
    assert status["attempt"] == 1 and status["resumedFrom"]["step"] >= 1, "from its checkpoint"


def test_a_namespace_shares_its_hours(jobs: Jobs, kubectl: Kubectl) -> None:
    def allow(hours: str) -> None:
        kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "finetune-budget"},
                "data": {"gpuHours": hours},
            },
            namespace=jobs.namespace,
        )

    allow("0.0001")  # less than the jobs above have used, or any other would
    try:
        # What was known about the budget may be 20 s old: it is asked for again after prepare.
        jobs.apply("poor", steps=5, seed=22, workers=GPUS)
        status = jobs.wait_phase("poor", "Suspended", "Training")
        assert status["phase"] == "Suspended"
        assert "ConfigMap finetune-budget: the 0.0001 GPU-hours" in status["pendingReason"]
        if status["goodput"]["gpuSeconds"] == 0:
            assert not jobs.children("poor", "jobs").keys() & {"Job/poor-a0"}
        allow("1000")
        assert jobs.wait_phase("poor", "Succeeded", "Failed")["phase"] == "Succeeded"
    finally:
        kubectl("delete", "configmap", "finetune-budget", namespace=jobs.namespace)
