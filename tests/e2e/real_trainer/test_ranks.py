"""Ranks that die or stand still in gangs of the real cluster: found, named, and what follows."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from e2e.gangs import DATA, ONE_CPU, WORK_SECONDS, curve, step_of
from e2e.host import processes_of
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

OVER_SECONDS = 10.0
"""From the death of a rank to the end of its gang."""


def test_a_killed_rank_on_advertised_gpus_is_named_and_its_gang_is_over_at_once(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    gang = {"count": 2, "gpusPerWorker": 2, "terminationGracePeriodSeconds": 300}
    jobs.apply(
        "shot",
        steps=100_000,
        data=DATA,
        workers=gang,
        deepspeed={"offloadOptimizer": "CPU", "offloadParameters": "CPU"},
        recovery={"maxRestarts": 0},
    )
    status = jobs.wait_phase("shot", "Training", "Failed")
    assert status["phase"] == "Training", status.get("failure")
    resolved = status["resolved"]
    assert (resolved["worldSize"], resolved["zeroStage"]) == (4, 3)
    assert (resolved["offloadOptimizer"], resolved["offloadParameters"]) == ("CPU", "CPU")
    wait_for("steps", lambda: step_of(attempts("shot") / "0", 3) >= 3)

    stage = "finetune.dev/job=shot,finetune.dev/stage=train"
    found = kubectl.json("get", "pods", "-l", stage, namespace=place)["items"]
    assert len({pod["spec"]["nodeName"] for pod in found}) == 2, "each pod takes a node's GPUs"
    victim = next(pod for pod in found if pod["metadata"]["name"].startswith("shot-a0-1-"))
    assert victim["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    inside = list(processes_of({victim["metadata"]["uid"]}))
    ranks = {rank: [p.pid for p in inside if b"RANK=%d" % rank in p.environment] for rank in (2, 3)}
    assert [len(pids) for pids in ranks.values()] == [1, 1], inside
    os.kill(ranks[3][0], signal.SIGKILL)
    died = time.monotonic()

    def job_failed() -> bool:
        job = kubectl.json("get", "job", "shot-a0", namespace=place)
        return conditions(job["status"]).get("Failed", {}).get("status") == "True"

    wait_for("the Kubernetes Job Failed", job_failed, 60, every=0.2)
    assert time.monotonic() - died <= OVER_SECONDS
    status = jobs.wait_phase("shot", "Failed", seconds=30)
    failure = status["failure"]
    assert (failure["stage"], failure["attempt"], failure["rank"]) == ("train", 0, 3)
    assert failure["pod"] == victim["metadata"]["name"]
    assert failure["node"] == victim["spec"]["nodeName"]
    assert failure["exitCode"] == 137 and failure["step"] >= 3
    assert "SIGKILL" in failure["message"]
    told = conditions(status)
    assert told["Failed"]["status"] == told["Stalled"]["status"] == "True"
    place_of_death = f"rank 3, pod {failure['pod']}, node {failure['node']}, exit code 137"
    assert place_of_death in told["Failed"]["message"]
    log = (attempts("shot") / "0/logs/rank-3.log").read_text()
    assert f"pod {failure['pod']}, node {failure['node']}" in log
    assert "in host memory: optimizer, parameters" in log
    left = processes_of({pod["metadata"]["uid"] for pod in found})
    assert not [p for p in left if b"finetune_trainer" in p.command], "on none of the nodes"


def test_a_stopped_rank_is_found_and_named_and_the_gang_goes_on(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, patience = 120, 20
    jobs.apply(
        "frozen",
        steps=steps,
        data=DATA,
        checkpoint={"everySteps": 10},
        recovery={"hangAfterSeconds": patience},
        workers={"resources": ONE_CPU},
    )
    first = attempts("frozen") / "0"
    wait_for("step 20", lambda: step_of(first, 1) >= 20, WORK_SECONDS, 0.1)
    found = kubectl.json(
        "get", "pods", "-l", "finetune.dev/job=frozen,finetune.dev/stage=train", namespace=place
    )["items"]
    victim = next(pod for pod in found if pod["metadata"]["name"].startswith("frozen-a0-1-"))
    inside = processes_of({victim["metadata"]["uid"]})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    os.kill(rank, signal.SIGSTOP)
    stopped = time.monotonic()
    failure = wait_for("the verdict", lambda: jobs.status("frozen").get("failure"), 120, 0.5)
    told_after = time.monotonic() - stopped
    status = jobs.wait_phase("frozen", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    (hang,) = status["pastFailures"]
    assert (hang["class"], hang["budget"]) == ("Hang", "Infrastructure")
    assert (failure["class"], failure["rank"], failure["exitCode"]) == ("Hang", 1, 76)
    assert failure["pod"] == victim["metadata"]["name"]
    assert failure["node"] == victim["spec"]["nodeName"]
    assert "is stopped" in failure["message"]
    assert "the rank is stopped" in (first / "logs/rank-1.stacks").read_text()
    assert (status["attempt"], status["restarts"]["infrastructure"]) == (1, 1)
    assert patience <= told_after <= patience + 40
    parts = [curve(first.parent / str(attempt)) for attempt in range(2)]
    assert parts[1][0][0] % 10 == 1 and parts[1][-1][0] == steps
    shared = dict(parts[0])
    again = [(step, loss) for step, loss in parts[1] if step in shared]
    assert all(shared[step] == loss for step, loss in again), "the same losses as before"
    print(f"named {told_after:.0f} s after it was stopped; {len(again)} steps done again")
