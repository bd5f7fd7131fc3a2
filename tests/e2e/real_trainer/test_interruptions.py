"""Training that was interrupted ends as training that was not, at every step."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import Any

import pytest
from e2e.gangs import DATA, ONE_CPU, WORK_SECONDS, curve, lines_of, step_of
from e2e.host import processes_of
from e2e.jobs import Jobs, conditions, evict
from e2e.kubectl import Kubectl, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

IN_FLIGHT = 3
"""Steps while a checkpoint of the tiny model is written beside them, with some to spare."""


def test_a_job_that_slept_goes_on_from_its_checkpoint_with_the_curve_of_one_that_did_not(
    jobs: Jobs, attempts: Any
) -> None:
    steps = 200
    for name in ("awake", "slept"):
        jobs.apply(
            name,
            steps=steps,
            data=DATA,
            method={"full": {}},  # adapters hardly teach a model of random weights
            training={
                "microBatchSize": 2,
                "globalBatchSize": 16,
                "learningRate": "3e-3",
                "dropout": "0.1",
            },
            evaluation={"everySteps": 50},
            workers={"resources": ONE_CPU},
        )
    wait_for("its first steps", lambda: step_of(attempts("slept") / "0", 1) >= 3)
    gang = {child for child in jobs.children("slept", "jobs,pods") if "slept-a0" in child}
    assert len(gang) == 3, gang
    jobs.patch("slept", suspend=True)
    status = jobs.wait_phase("slept", "Suspended")
    wait_for("its pods are gone", lambda: not jobs.children("slept", "jobs,pods").keys() & gang, 30)
    told = conditions(status)
    assert (told["Suspended"]["status"], told["GangReady"]["status"]) == ("True", "False")
    first = attempts("slept") / "0"
    saved = step_of(first, 0)
    assert 3 <= saved < steps, "suspended in the middle of training"
    assert (first / f"checkpoints/step-{saved}/manifest.json").is_file()

    jobs.patch("slept", suspend=False)
    ends = {name: jobs.wait_phase(name, "Succeeded", "Failed") for name in ("awake", "slept")}
    assert {end["phase"] for end in ends.values()} == {"Succeeded"}, ends
    second = attempts("slept") / "1"
    parent = json.loads((second / "parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, saved)
    parts = [*curve(first), *curve(second)]
    assert [step for step, _ in parts] == list(range(1, steps + 1)), "no step twice, none left out"
    assert parts == curve(attempts("awake") / "0")
    assert parts[-1][1] < parts[0][1] / 2, "and it learns"
    metrics = {name: end["metrics"] for name, end in ends.items()}
    assert metrics["slept"] == metrics["awake"]
    assert ends["slept"]["attempt"] == 1 and "failure" not in ends["slept"]


def test_a_killed_rank_and_an_evicted_pod_change_nothing_of_the_result(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, interval = 200, 10
    for name in ("calm", "rough"):
        jobs.apply(
            name,
            steps=steps,
            data=DATA,
            method={"lora": {"dropout": "0.1", "rslora": "Enabled", "dora": "Enabled"}},
            training={
                "microBatchSize": 2,
                "globalBatchSize": 16,
                "learningRate": "3e-3",
                "neftuneNoiseAlpha": "5",
            },
            evaluation={"everySteps": 100},
            checkpoint={"everySteps": interval},
            workers={"terminationGracePeriodSeconds": 120, "resources": ONE_CPU},
        )

    def pod_at_work(attempt: int, index: int, step: int) -> dict[str, Any]:
        folder = attempts("rough") / str(attempt)
        wait_for(f"step {step}", lambda: step_of(folder, index) >= step, WORK_SECONDS, 0.1)
        gang = f"finetune.dev/job=rough,finetune.dev/stage=train,finetune.dev/attempt={attempt}"
        found = kubectl.json("get", "pods", "-l", gang, namespace=place)["items"]
        names = f"rough-a{attempt}-{index}-"
        return next(dict(pod) for pod in found if pod["metadata"]["name"].startswith(names))

    inside = processes_of({pod_at_work(0, 1, 3 * interval)["metadata"]["uid"]})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    os.kill(rank, signal.SIGKILL)
    evict(kubectl, pod_at_work(1, 0, 8 * interval))
    ends = {
        name: jobs.wait_phase(name, "Succeeded", "Failed", seconds=WORK_SECONDS)
        for name in ("calm", "rough")
    }
    assert {end["phase"] for end in ends.values()} == {"Succeeded"}, ends

    status = ends["rough"]
    killed, evicted = status["pastFailures"]
    assert (killed["class"], killed["budget"]) == ("Internal", "Program")
    assert (evicted["class"], evicted["budget"]) == ("Evicted", "Infrastructure")
    restarts = status["restarts"]
    assert (restarts["program"], restarts["infrastructure"], status["attempt"]) == (1, 1, 2)
    assert "failure" not in status and "restarts" not in ends["calm"]

    # Lost are at most an interval and what was in flight by the kill, nothing by the eviction.
    parts = [curve(attempts("rough") / str(attempt)) for attempt in range(3)]
    last = [part[-1][0] for part in parts]
    parents = [
        json.loads((attempts("rough") / f"{attempt}/parent.json").read_text()) for attempt in (1, 2)
    ]
    assert [parent["attempt"] for parent in parents] == [0, 1]
    began = [parent["step"] for parent in parents]
    print(f"killed after step {last[0]}, went on from {began[0]}; evicted after step {last[1]}, "
          f"went on from {began[1]}; {restarts['stepsRedone']} steps told as lost")  # fmt: skip
    assert began[0] % interval == 0 and 0 <= last[0] - began[0] <= interval + IN_FLIGHT
    assert began[1] == last[1]
    assert status["resumedFrom"] == {"attempt": 1, "step": began[1]}
    assert killed["stepsRedone"] == max(0, killed["step"] - began[0])
    assert (evicted["stepsRedone"], restarts["stepsRedone"]) == (0, killed["stepsRedone"])

    for end in ends.values():
        account, spent = end["goodput"], end["goodput"]["seconds"]
        print(f"{spent}, {account['percent']} % productive")
        begin, until = map(datetime.fromisoformat, (end["startTime"], end["completionTime"]))
        assert account["until"] == end["completionTime"]
        assert sum(spent.values()) == (until - begin).total_seconds()
        assert min(spent[cause] for cause in ("prepare", "init", "productive", "export")) > 0
    assert status["goodput"]["seconds"]["restart"] >= 5, "one pause: an eviction has none"
    assert ends["calm"]["goodput"]["seconds"]["restart"] == 0

    # The curve is that of the undisturbed run at every step, and so is the result, bit for bit.
    undisturbed = curve(attempts("calm") / "0")
    assert [step for step, _ in undisturbed] == list(range(1, steps + 1))
    for part in parts:
        assert part == undisturbed[part[0][0] - 1 : part[-1][0]]
    assert (last[2], status["metrics"]) == (steps, ends["calm"]["metrics"])
    adapters = [
        (attempts(name) / f"{attempt}/adapter/adapter_model.safetensors").read_bytes()
        for name, attempt in (("calm", 0), ("rough", 2))
    ]
    merged = [
        (attempts(name).parent / "output/merged/model.safetensors").read_bytes()
        for name in ("calm", "rough")
    ]
    assert adapters[0] == adapters[1] and merged[0] == merged[1]
    settings = json.loads((attempts("calm") / "0/adapter/adapter_config.json").read_text())
    assert settings["use_rslora"] and settings["use_dora"]


def test_a_rank_killed_while_a_checkpoint_is_written_costs_that_one_alone(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, interval = 120, 10
    jobs.apply(
        "torn",
        steps=steps,
        data=DATA,
        method={"full": {}},
        checkpoint={"everySteps": interval},
        workers={"resources": ONE_CPU},
    )
    first = attempts("torn") / "0"
    wait_for("step 20", lambda: step_of(first, 1) >= 20, WORK_SECONDS, 0.1)
    pods = kubectl.json("get", "pods", "-l", "finetune.dev/job=torn", namespace=place)["items"]
    inside = processes_of({pod["metadata"]["uid"] for pod in pods})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    wait_for("no save", lambda: not list((first / "checkpoints").glob("*.tmp")), 60, 0.001)
    wait_for("a save", lambda: list((first / "checkpoints").glob("*.tmp")), 60, 0.001)
    os.kill(rank, signal.SIGKILL)
    (torn,) = (first / "checkpoints").glob("*.tmp")
    at = int(torn.stem.removeprefix("step-"))

    status = jobs.wait_phase("torn", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] == 1
    parent = json.loads((first.parent / "1/parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, at - interval)
    assert not torn.exists() and not (first / f"checkpoints/step-{at}").exists()
    parts = [curve(first.parent / str(attempt)) for attempt in range(2)]
    again = [one for one in parts[0] if one[0] > at - interval]
    assert len(again) >= interval, "training had gone on"
    assert parts[1][: len(again)] == again, "the same losses as before"
    assert parts[1][-1][0] == steps
    told = [line for line in lines_of(first.parent / "1") if "stallSeconds" in line]
    assert [line["step"] for line in told] == list(range(at, steps, interval))
    stall, seconds = (sum(line[key] for line in told) for key in ("stallSeconds", "seconds"))
    print(f"killed while step {at} was written, after step {parts[0][-1][0]}; training stood still "
          f"for {stall:.2f} s of the {seconds:.2f} s of {len(told)} checkpoints")  # fmt: skip
