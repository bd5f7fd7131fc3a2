"""A job that goes on from the result of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from e2e.gangs import DATA, ONE_CPU, WORK_SECONDS
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_a_job_goes_on_from_the_adapter_of_another_and_its_data_and_result_are_used_again(
    jobs: Jobs, kubectl: Kubectl, files: Path, place: str
) -> None:
    small = {"steps": 4, "data": DATA, "workers": {"resources": ONE_CPU}}
    child = {**small, "model": {"uri": "job://parent"}}
    jobs.apply("child", **child)
    wait_for("a reason to wait", lambda: waits_for(jobs.status("child"), "does not exist"))
    kept = {"everySteps": 2, "overfitting": {"action": "StopKeepBest"}}
    judged = {"data": {**DATA, "evalFraction": "0.2"}, "evaluation": kept}
    adapter = {"output": {"formats": ["Adapter"]}}
    jobs.apply("parent", **{**small, **judged, **adapter, "checkpoint": {"everySteps": 2}})
    wait_for("the parent", lambda: waits_for(jobs.status("child"), "waiting for it"))
    status = jobs.wait_phase("child", "Succeeded", "Failed", seconds=2 * WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    earlier = {"uri": "job://parent", "checkpoint": {"step": 2}}
    jobs.apply("from-step", **{**small, **adapter, "steps": 1, "model": earlier})
    parent = jobs.status("parent")
    assert parent["artifact"]["formats"] == ["Adapter"]
    [ancestor] = status["lineage"]["jobs"]
    best = parent["checkpoints"]["best"]["step"]
    assert (ancestor["job"], ancestor["step"]) == ("parent", best)
    assert ancestor["artifact"] == parent["artifact"]["digest"]
    assert ancestor["lock"] == parent["lock"]["digest"] != status["lock"]["digest"]
    assert status["lineage"]["summary"] == f"parent@{best} ← pvc://work/model"
    wide = kubectl("get", "ftj", "child", "-o", "wide", namespace=place)
    assert status["lineage"]["summary"] in str(wide)
    merged = files / status["artifact"]["path"] / "merged"
    lock = json.loads((merged / "lock.json").read_text())
    assert lock["digest"] == status["lock"]["digest"]
    assert lock["lineage"]["base"] == "pvc://work/model"
    assert '"job": "parent"' in (merged / "README.md").read_text()

    jobs.apply("twin", **child, output={"reuse": "SameLock"})
    again = jobs.wait_phase("twin", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert again["phase"] == "Succeeded", again.get("failure")
    assert again["lock"] == status["lock"]
    assert "preparedBy" not in status["data"]
    assert again["data"]["preparedBy"] == "child"
    assert "the data is that of FineTuneJob child" in conditions(again)["DatasetValid"]["message"]
    assert again["reused"]["job"] == "child" and "refused" not in again["reused"]
    assert (
        "that of FineTuneJob child, which has the same lock"
        in (conditions(again)["Succeeded"]["message"])
    )
    assert "Job/twin-a0" not in jobs.children("twin", "jobs")
    assert again["artifact"]["digest"] == status["artifact"]["digest"]
    assert again["metrics"]["loss"] == status["metrics"]["loss"]
    weights = files / again["artifact"]["path"] / "merged" / "model.safetensors"
    assert weights.read_bytes() == (merged / "model.safetensors").read_bytes()

    status = jobs.wait_phase("from-step", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["lineage"]["summary"] == "parent@2 ← pvc://work/model"


def waits_for(status: dict[str, Any], words: str) -> bool:
    return words in status.get("pendingReason", "")
