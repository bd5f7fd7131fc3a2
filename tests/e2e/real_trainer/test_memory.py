"""A gang whose container is too small."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e.gangs import ONE_CPU, WORK_SECONDS, curve
from e2e.host import processes_of
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import chat_row

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

TO_SPARE = 512 << 20
"""Bytes for what a loaded rank still starts; the activations of the first step need far more."""


@pytest.fixture
def many(files: Path) -> dict[str, Any]:
    """Data of long rows."""
    rows = [chat_row(f"What is gang {n}?", "A set of pods. " * 40) for n in range(1500)]
    (files / "many.jsonl").write_text("\n".join(rows))
    source = {"name": "rows", "uri": "pvc://work/many.jsonl"}
    return {"train": [source], "sequenceLength": 256}


def test_a_container_that_is_too_small_gets_a_smaller_training_of_the_same_batch(
    jobs: Jobs, many: dict[str, Any], attempts: Any
) -> None:
    jobs.apply(
        "tight",
        steps=2,
        data=many,
        training={"microBatchSize": 256, "globalBatchSize": 512},
        workers={"resources": {**ONE_CPU, "limits": {"cpu": "1", "memory": "700Mi"}}},
        recovery={"backoffSeconds": {"initial": 1, "max": 1}},
    )
    status = jobs.wait_phase("tight", "Succeeded", "Failed", seconds=WORK_SECONDS)
    print(status["resolved"].get("adaptations"), status.get("failure"))
    assert status["phase"] == "Succeeded", status.get("failure")
    resolved = status["resolved"]
    first = resolved["adaptations"][0]
    assert (first["class"], first["attempt"]) == ("HostOom", 0)
    assert first["change"] == "microBatchSize 256 → 128, accumulation 1 → 2"
    assert resolved["microBatchSize"] * resolved["accumulation"] * 2 == 512
    assert resolved["globalBatchSize"] == 512
    assert {past["class"] for past in status["pastFailures"]} == {"HostOom"}
    assert status["restarts"]["program"] == 0
    assert status["restarts"]["memory"] == status["attempt"] == len(resolved["adaptations"])
    assert [step for step, _ in curve(attempts("tight") / str(status["attempt"]))] == [1, 2]


@pytest.mark.long
def test_a_rank_that_the_allocator_refuses_gets_a_smaller_training_of_the_same_batch(
    jobs: Jobs, kubectl: Kubectl, many: dict[str, Any], attempts: Any, place: str
) -> None:
    spec: dict[str, Any] = {
        "steps": 3,
        "data": many,
        "training": {"microBatchSize": 1024, "globalBatchSize": 2048},
        "workers": {"resources": ONE_CPU},
        "recovery": {"backoffSeconds": {"initial": 1, "max": 1}},
    }
    jobs.apply("plenty", **spec)
    status = jobs.wait_phase("plenty", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")

    jobs.apply("refused", **spec)
    label = "finetune.dev/job=refused,finetune.dev/stage=train"

    def rank_1() -> list[int]:
        pods = kubectl.json("get", "pods", "-l", label, namespace=place)["items"]
        inside = processes_of({pod["metadata"]["uid"] for pod in pods})
        return [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]

    (pid,) = wait_for("rank 1", rank_1, WORK_SECONDS, 0.05)
    beat = attempts("refused") / "0/heartbeats/rank-1.json"
    wait_for("it loads", lambda: _phase(beat) not in ("", "init"), WORK_SECONDS, 0.005)
    assert _phase(beat) == "load", "the first step is still to come"
    limit = _virtual_size(pid) + TO_SPARE
    owner = Path(f"/proc/{pid}").stat()  # who may do it, where root is not allowed everything
    command = ["prlimit", f"--pid={pid}", f"--as={limit}:{limit}"]
    subprocess.run(command, user=owner.st_uid, group=owner.st_gid, extra_groups=[], check=True)

    failure = wait_for("its end", lambda: jobs.status("refused").get("failure"), 120)
    assert (failure["class"], failure["rank"]) == ("HostOom", 1), failure
    assert failure["signature"] == "HostMemory"
    status = jobs.wait_phase("refused", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    (adapted,) = status["resolved"]["adaptations"]
    assert adapted["change"] == "microBatchSize 1024 → 512, accumulation 1 → 2"
    assert status["resolved"]["globalBatchSize"] == 2048
    restarts = status["restarts"]
    assert (restarts["memory"], restarts["program"], restarts["total"]) == (1, 0, 1)
    calm, smaller = curve(attempts("plenty") / "0"), curve(attempts("refused") / "1")
    assert [step for step, _ in smaller] == [1, 2, 3]
    assert dict(smaller) == pytest.approx(dict(calm), rel=1e-5)


def _phase(beat: Path) -> str:
    try:
        return str(json.loads(beat.read_text())["phase"])
    except (FileNotFoundError, ValueError):
        return ""


def _virtual_size(pid: int) -> int:
    """Bytes that a process has mapped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmSize:")))
