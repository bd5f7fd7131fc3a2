"""Pods are killed from outside, in every stage, and the cluster lacks what they need."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from e2e.host import processes_of
from faults.ground import Ground
from faults.matrix import Outcome, row
from faults.rows.api_server import end_well
from faults.site import Site
from faults.specs import QUICK

SAVE_STEPS = 5
STAGE, INDEX = "finetune.dev/stage", "batch.kubernetes.io/job-completion-index"
STORIES = {"one": ("1",), "first": ("0",), "both": ("0", "1")}
"""Name of a job → pods of its gang that are killed at once."""


def saving() -> dict[str, Any]:
    """Checkpoints every few steps, and a budget for what is done to them."""
    variable = {"name": "TORCH_TEST_SAVE_STEPS", "value": str(SAVE_STEPS)}
    return {"workers": {"env": [variable]}, "recovery": {"backoffSeconds": dict(QUICK)}}


def kill(site: Site, name: str, stage: str, indices: Collection[str] = ("0",)) -> int:
    """SIGKILL to all processes of these pods of a stage, at once. Returns how many pods."""
    pods = [
        pod["metadata"]["uid"]
        for pod in site.list("Pod")
        if pod["metadata"]["labels"].get("finetune.dev/job") == name
        and pod["metadata"]["labels"].get(STAGE) == stage
        and pod["metadata"]["labels"].get(INDEX, "0") in indices
        and pod["status"].get("phase") == "Running"
    ]
    for process in list(processes_of(pods)):
        if any(entry.startswith(b"FINETUNE_ATTEMPT=") for entry in process.environment):
            with suppress(ProcessLookupError):  # its parent's end has taken it along
                os.kill(process.pid, signal.SIGKILL)
    return len(pods)


def progress(site: Site, name: str) -> int:
    return int((site.statuses()[name].get("progress") or {}).get("step") or 0)


@row(
    "pods-killed",
    "SIGKILL to all processes of a training pod: of rank 1, of rank 0, of both at once",
    "one restart, at most one checkpoint interval is lost",
    short=False,
)
def pods_killed(ground: Ground) -> Outcome:
    site, lost = ground.site(), {}
    with ground.operator(site):
        for name in STORIES:
            site.create(name, steps=24, **saving())
        for name, indices in STORIES.items():
            site.wait(
                lambda n=name: f"a checkpoint of {n}",
                lambda n=name: progress(site, n) > SAVE_STEPS,
                120,
            )
            killed = kill(site, name, "train", indices)
            assert killed == len(indices), f"{name}: {killed} pods were there"
        end_well(site, **dict.fromkeys(STORIES, 1))
        for name, status in site.statuses().items():
            (past,) = status["pastFailures"]
            assert past["class"] == "UnknownFailure" and past["budget"] == "Program", past
            lost[name] = status["restarts"].get("stepsRedone", 0)
    assert max(lost.values()) <= SAVE_STEPS, lost
    return Outcome(4, f"steps trained again: {lost}")


@row(
    "other-stages-killed",
    "SIGKILL to all processes of the prepare pod, and of the export pod",
    "the stage begins anew, training is not touched",
    short=False,
)
def other_stages_killed(ground: Ground) -> Outcome:
    site = ground.site()
    with ground.operator(site):
        site.create("twice", steps=3, seed=8, **saving())
        for phase, stage in (("Preparing", "prepare"), ("Exporting", "export")):
            site.wait(
                lambda s=stage: f"the {s} pod: {site.summary()}",
                lambda p=phase, s=stage: site.phase("twice") == p and kill(site, "twice", s),
                120,
            )
        end_well(site, twice=2)
        status = site.statuses()["twice"]
        counters = ("prepareAttempt", "attempt", "exportAttempt")
        assert [status[name] for name in counters] == [1, 0, 1]
        stages = [past["stage"] for past in status["pastFailures"]]
        assert stages == ["prepare", "export"]
    return Outcome(2)


@row(
    "account-missing",
    "the ServiceAccount of the pods is not there, and comes later",
    "one sentence names it, no restart, it heals",
    short=False,
)
def account_missing(ground: Ground) -> Outcome:
    site = ground.site()
    with ground.operator(site):
        site.create("late", steps=2, workers={"serviceAccountName": "late"})

        def told() -> bool:
            sentence = site.statuses()["late"].get("pendingReason") or ""
            return 'serviceaccount "late" not found' in sentence and "\n" not in sentence

        site.wait(lambda: f"the reason, not {site.summary()}", told, 120)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "late"}}
        site.api.json("POST", f"/api/v1/namespaces/{site.namespace}/serviceaccounts", account)
        end_well(site)
        assert "pendingReason" not in site.statuses()["late"]
    return Outcome()
