"""Harm to training with the real trainer: who dies, when, and what lies on the volume.

The losses of every attempt are those of a job that nobody harmed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.gangs import DATA, ONE_CPU, WORK_SECONDS, curve, step_of
from e2e.host import HostProcess, processes_of
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import small_disk

from local_cluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1800)]

STEPS, INTERVAL = 80, 10
IN_FLIGHT = 3
"""Steps while a checkpoint of the tiny model is written beside them, with some to spare."""
SPEC: dict[str, Any] = {
    "steps": STEPS,
    "data": DATA,
    "method": {"full": {}},
    "training": {"learningRate": "3e-3", "dropout": "0.1"},
    "evaluation": {"everySteps": 20},
    "checkpoint": {"everySteps": INTERVAL, "keep": 4},
    "recovery": {"backoffSeconds": {"initial": 1, "max": 1}},
    "workers": {"resources": ONE_CPU},
}
Curve = list[tuple[int, float]]


@pytest.fixture(scope="module")
def undisturbed(kubectl: Kubectl, files: Path, place: str) -> Curve:
    jobs = Jobs(kubectl, place)
    jobs.apply("unharmed", **SPEC)
    status = jobs.wait_phase("unharmed", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    uid = kubectl.json("get", "ftj", "unharmed", namespace=place)["metadata"]["uid"]
    found = curve(files / place / uid / "attempts/0")
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return found


@pytest.fixture
def inside(kubectl: Kubectl, place: str) -> Any:
    """The processes of a job's pods of one stage."""

    def found(name: str, stage: str) -> list[HostProcess]:
        label = f"finetune.dev/job={name},finetune.dev/stage={stage}"
        pods = kubectl.json("get", "pods", "-l", label, namespace=place)["items"]
        return list(processes_of({pod["metadata"]["uid"] for pod in pods}))

    return found


def ranks_of(processes: list[HostProcess]) -> dict[int, int]:
    """PID by rank."""
    return {
        rank: process.pid
        for process in processes
        for rank in range(2)
        if b"RANK=%d" % rank in process.environment and b".rank" in process.command
    }


def phase_of(attempt: Path, rank: int) -> str:
    try:
        return str(json.loads((attempt / f"heartbeats/rank-{rank}.json").read_text())["phase"])
    except (FileNotFoundError, ValueError):
        return ""


def assert_recovered(jobs: Jobs, name: str, folder: Path, undisturbed: Curve) -> dict[str, Any]:
    """It succeeded in its second attempt, lost an interval at most, and learnt the same."""
    status = jobs.wait_phase(name, "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] == 1
    parts = [curve(folder / str(attempt)) for attempt in range(2)]
    began = status["resumedFrom"]["step"]
    assert began % INTERVAL == 0
    assert 0 <= parts[0][-1][0] - began <= INTERVAL + IN_FLIGHT
    assert parts[1][0][0] == began + 1 and parts[1][-1][0] == STEPS
    for part in parts:
        assert part == undisturbed[part[0][0] - 1 : part[-1][0]]
    return status


@pytest.mark.parametrize("victims", [(0,), (0, 1)], ids=["rank 0", "both"])
def test_ranks_die(
    jobs: Jobs, attempts: Any, inside: Any, undisturbed: Curve, victims: tuple[int, ...]
) -> None:
    name = f"dies-{len(victims)}"
    jobs.apply(name, **SPEC)
    wait_for("steps", lambda: step_of(attempts(name) / "0", 1) >= 25, WORK_SECONDS, 0.05)
    pids = ranks_of(inside(name, "train"))
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    status = assert_recovered(jobs, name, attempts(name), undisturbed)
    (past,) = status["pastFailures"]
    assert (past["class"], past["budget"], past["attempt"]) == ("Internal", "Program", 0)
    assert status["restarts"]["program"] == 1


def test_a_rank_dies_during_an_evaluation(
    jobs: Jobs, attempts: Any, inside: Any, undisturbed: Curve
) -> None:
    jobs.apply("scoring", **SPEC)
    first = attempts("scoring") / "0"
    wait_for("steps", lambda: step_of(first, 1) >= 15, WORK_SECONDS, 0.05)
    victim = ranks_of(inside("scoring", "train"))[1]
    wait_for("an evaluation", lambda: phase_of(first, 1) == "eval", WORK_SECONDS, 0.001)
    os.kill(victim, signal.SIGKILL)
    status = assert_recovered(jobs, "scoring", first.parent, undisturbed)
    assert status["pastFailures"][0]["step"] % 20 == 0, "evaluated is every 20 steps"


def test_export_dies_and_is_done_again(
    jobs: Jobs, attempts: Any, inside: Any, undisturbed: Curve
) -> None:
    jobs.apply("exported", **SPEC)

    def export() -> list[int]:
        return [p.pid for p in inside("exported", "export") if b"export" in p.command]

    for pid in wait_for("export", export, WORK_SECONDS, 0.05):
        os.kill(pid, signal.SIGKILL)
    status = jobs.wait_phase("exported", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] == 0 and curve(attempts("exported") / "0") == undisturbed
    output = attempts("exported").parent / "output"
    manifest = json.loads((output / "merged/manifest.json").read_text())
    assert manifest["files"] and not list(output.glob("*.tmp*"))


def test_damaged_checkpoints_are_passed_over(jobs: Jobs, attempts: Any, undisturbed: Curve) -> None:
    """The newest is cut short, the next has another bit, the third no manifest."""
    jobs.apply("damaged", **SPEC)
    first = attempts("damaged") / "0"
    wait_for("steps", lambda: step_of(first, 1) >= 45, WORK_SECONDS, 0.05)
    jobs.patch("damaged", suspend=True)
    jobs.wait_phase("damaged", "Suspended")
    folders = sorted(
        (first / "checkpoints").glob("step-*"), key=lambda each: -int(each.name[len("step-") :])
    )
    cut, flipped, bare, whole = folders[:4]
    shards = [max(each.glob("*.safetensors"), key=os.path.getsize) for each in (cut, flipped)]
    os.truncate(shards[0], shards[0].stat().st_size // 2)
    content = bytearray(shards[1].read_bytes())
    content[-5] ^= 1
    shards[1].write_bytes(content)
    (bare / "manifest.json").unlink()
    jobs.patch("damaged", suspend=False)

    status = jobs.wait_phase("damaged", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    resumed = status["resumedFrom"]
    assert (resumed["attempt"], resumed["step"]) == (0, int(whole.name[len("step-") :]))
    told = " ".join(resumed["damaged"])
    assert all(each.name[len("step-") :] in told for each in (cut, flipped)), told
    second = curve(first.parent / "1")
    assert second == undisturbed[resumed["step"] :]


@pytest.fixture
def disk(
    cluster: LocalCluster, kubectl: Kubectl, place: str, files: Path, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """Where the claim ``disk-<param>`` of that size is here."""
    with small_disk(cluster, kubectl, place, request.param) as folder:
        yield folder


@pytest.mark.parametrize("disk", ["96m"], indirect=True)
def test_the_disk_fills_while_it_trains(
    jobs: Jobs, kubectl: Kubectl, disk: Path, place: str, undisturbed: Curve
) -> None:
    """The job ends with the reason; made larger, the claim serves the next one."""
    spec = SPEC | {
        "storage": {"claimRef": {"name": "disk-96m"}},
        "checkpoint": {"everySteps": INTERVAL, "onDiskFull": "Stop"},
    }
    jobs.apply("filled", **spec)
    uid = kubectl.json("get", "ftj", "filled", namespace=place)["metadata"]["uid"]
    first = disk / place / uid / "attempts/0"
    wait_for("steps", lambda: step_of(first, 1) >= 15, WORK_SECONDS, 0.05)
    free = shutil.disk_usage(disk).free
    with (disk / "somebody-else").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free - 16_384)
    status = jobs.wait_phase("filled", "Failed", "Succeeded", seconds=WORK_SECONDS)
    assert status["phase"] == "Failed", "the next checkpoint does not fit"
    assert status["failure"]["class"] == "DiskFull", status["failure"]
    assert "claim" in status["failure"]["hint"]
    (disk / "somebody-else").unlink()
    whole = list((first / "checkpoints").glob("step-*"))
    assert f"step-{INTERVAL}" in [each.name for each in whole]
    assert all((each / "manifest.json").is_file() for each in whole)
    part = curve(first)
    assert part == undisturbed[: len(part)]


@pytest.mark.parametrize("disk", ["95m"], indirect=True)
def test_a_volume_that_can_only_be_read_is_named_and_heals(
    jobs: Jobs, kubectl: Kubectl, disk: Path, place: str, undisturbed: Curve
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    jobs.apply("read-only", **SPEC | {"storage": {"claimRef": {"name": "disk-95m"}}})
    wanted = 'failed to create subPath directory for volumeMount "workspace"'
    wait_for("the reason", lambda: wanted in jobs.status("read-only").get("pendingReason", ""), 60)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    # A pod keeps its mounts as they were made: another one is needed.
    label = "finetune.dev/job=read-only"
    kubectl("delete", "pod", "-l", label, "--wait=false", namespace=place)
    status = jobs.wait_phase("read-only", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    uid = kubectl.json("get", "ftj", "read-only", namespace=place)["metadata"]["uid"]
    assert curve(disk / place / uid / "attempts/0") == undisturbed
