"""The operator is killed in every phase of a job, and told to delete one in each."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from e2e.gangs import DATA, ONE_CPU, RELEASE, WORK_SECONDS, curve, step_of
from e2e.jobs import GRACE_SECONDS, Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import OperatorProcess

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

KILLS = {"Preparing": 3, "Training": 4, "Exporting": 3}
"""How often the operator is killed in each phase of a job."""


def test_ten_kills_of_the_operator_during_a_job_neither_double_nor_lose_anything(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    process, rng, steps = OperatorProcess(kubectl, place, RELEASE), random.Random(7), 600
    jobs.apply("orphan", steps=steps, data=DATA, workers={"resources": ONE_CPU})
    seen: dict[str, set[str]] = {}
    phases = []

    def look() -> None:
        for name, uid in jobs.children("orphan", "jobs,pods").items():
            seen.setdefault(name, set()).add(uid)

    for phase, times in KILLS.items():
        jobs.wait_phase("orphan", phase, seconds=WORK_SECONDS)
        for _ in range(times):
            process.kill()
            phases.append(jobs.status("orphan").get("phase"))
            look()
            time.sleep(rng.uniform(0.2, 2))
            look()
    status = jobs.wait_phase("orphan", "Succeeded", "Failed", seconds=WORK_SECONDS)
    look()
    print(f"killed in {phases}")
    assert status["phase"] == "Succeeded"
    assert len(phases) == 10 and {*KILLS} <= {*phases}
    assert [status[name] for name in ("prepareAttempt", "attempt", "exportAttempt")] == [0, 0, 0]
    children = sorted(name for name in seen if name.startswith("Job/"))
    assert children == ["Job/orphan-a0", "Job/orphan-p0", "Job/orphan-x0"]
    assert all(len(uids) == 1 for uids in seen.values()), seen
    assert sum(name.startswith("Pod/") for name in seen) == 4, sorted(seen)
    told = curve(attempts("orphan") / "0")
    assert [step for step, _ in told] == list(range(1, steps + 1))
    assert float(status["metrics"]["loss"]) == pytest.approx(told[-1][1], rel=1e-3)


@pytest.mark.parametrize("phase", ["Preparing", "Training", "Exporting"])
def test_deleting_a_job_removes_all_children_within_the_grace_period_and_keeps_its_files(
    jobs: Jobs, attempts: Any, phase: str
) -> None:
    name = f"deleted-{phase.lower()}"
    steps = {"Exporting": 2}.get(phase, 100_000)
    jobs.apply(name, steps=steps, data=DATA, workers={"resources": ONE_CPU})
    jobs.wait_phase(name, phase)
    folder = attempts(name)
    if phase == "Training":
        wait_for("steps", lambda: step_of(folder / "0", 0) >= 3, WORK_SECONDS)
    letter = {"Preparing": "p", "Training": "a", "Exporting": "x"}[phase]
    wait_for("its pods", lambda: any(f"-{letter}0-" in pod for pod in jobs.living_pods(name)))
    jobs.delete(name)
    wait_for("no child is left", lambda: not jobs.children(name), GRACE_SECONDS + 15)
    if phase == "Training":
        assert list((folder / "0/checkpoints").glob("step-*/manifest.json")), "saved on SIGTERM"
    if phase == "Exporting":
        assert (folder / "0/adapter/adapter_model.safetensors").is_file()
