"""The real trainer loses ranks and pods, and ends with the weights of a run that lost none."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from e2e.kubectl import Kubectl, wait_for
from tiny_models import save_tiny_model

from local_cluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

PATIENCE = 600.0
STEPS = 500
INTERVAL = 20
"""Steps between checkpoints: what a failure may cost at most."""


class Workspace:
    """A claim with a tiny model and its data, and what jobs leave there."""

    def __init__(self, kubectl: Kubectl, namespace: str, volumes: Path) -> None:
        self._kubectl = kubectl
        self.namespace = namespace
        self._uids: dict[str, str] = {}
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "work"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        kubectl.apply(claim, namespace=namespace)
        volume = wait_for("the claim is bound", lambda: self._volume(), 60)
        self._folder = volumes / volume
        save_tiny_model(self._folder / "model")
        rows = [
            json.dumps({"prompt": f"What is {a} and {b}?", "response": f"It is {a + b}."})
            for a in range(12)
            for b in range(12)
        ]
        (self._folder / "rows.jsonl").write_text("\n".join(rows) + "\n")

    def _volume(self) -> str:
        claim = self._kubectl.json("get", "pvc", "work", namespace=self.namespace)
        return str(claim["spec"].get("volumeName", ""))

    def apply(self, name: str) -> None:
        """The job of this file: dropout everywhere, so that a lost random state would show."""
        limits = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1"}}
        job = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": "pvc://work/model"},
                "data": {
                    "train": [{"name": "sums", "uri": "pvc://work/rows.jsonl"}],
                    "evalFraction": "0.1",
                    "sequenceLength": 128,
                },
                "method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0.1"}},
                "training": {
                    "steps": STEPS,
                    "globalBatchSize": 4,
                    "microBatchSize": 1,
                    "dropout": "0.1",
                },
                "deepspeed": {"zeroStage": 2},
                "evaluation": {"everySteps": 100},
                "checkpoint": {"everySteps": INTERVAL, "keep": 2},
                "workers": {
                    "count": 2,
                    "ranksPerWorker": 1,
                    "resources": limits,
                    "sharedMemory": "64Mi",
                    "terminationGracePeriodSeconds": 60,
                },
                "storage": {"claimRef": {"name": "work"}},
                "output": {"formats": ["Adapter", "Merged"]},
            },
        }
        self._kubectl.apply(job, namespace=self.namespace)

    def stored(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._kubectl.json("get", "ftj", name, namespace=self.namespace)
        return found

    def files(self, name: str) -> Path:
        """Where the job's files lie on this host."""
        if name not in self._uids:
            self._uids[name] = self.stored(name)["metadata"]["uid"]
        return self._folder / self.namespace / self._uids[name]

    def lines(self, name: str, attempt: int) -> dict[int, Any]:
        """Step → what rank 0 wrote down after it: loss, rate, gradient norm."""
        path = self.files(name) / f"attempts/{attempt}/metrics.jsonl"
        if not path.exists():
            return {}
        found = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        names = ("loss", "learningRate", "gradNorm", "tokens")
        return {each["step"]: [each[n] for n in names] for each in found if "loss" in each}

    def succeed(self, name: str) -> dict[str, Any]:
        def ended() -> Any:
            status = self.stored(name).get("status") or {}
            return status if status.get("phase") in ("Succeeded", "Failed") else None

        status: dict[str, Any] = wait_for(f"{name} ends", ended, PATIENCE)
        assert status["phase"] == "Succeeded", status
        return status

    def pod(self, name: str, attempt: int, index: int) -> dict[str, Any]:
        selector = (
            f"finetune.dev/job={name},finetune.dev/attempt={attempt},finetune.dev/stage=train,"
            f"batch.kubernetes.io/job-completion-index={index}"
        )
        (pod,) = self._kubectl.json("get", "pods", "-l", selector, namespace=self.namespace)[
            "items"
        ]
        return dict(pod)

    def evict(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": self.namespace}}  # fmt: skip
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        self._kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def rank_process(pod_uid: str) -> int:
    """Process of the rank in a pod, on the host that all nodes run on."""
    for folder in Path("/proc").iterdir():
        try:
            cgroup = (folder / "cgroup").read_text() if folder.name.isdigit() else ""
            if pod_uid not in cgroup and pod_uid.replace("-", "_") not in cgroup:
                continue
            if b"finetune_trainer.rank" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no rank runs in pod {pod_uid}")


@pytest.fixture
def workspace(cluster: LocalCluster, kubectl: Kubectl, operator: str, namespace: str) -> Workspace:
    return Workspace(kubectl, namespace, cluster.paths.volumes)


def test_a_killed_rank_and_an_evicted_pod_change_nothing_of_the_result(
    workspace: Workspace,
) -> None:
    workspace.apply("calm")
    calm = workspace.succeed("calm")
    assert "restarts" not in calm

    workspace.apply("rough")
    wait_for("step 110", lambda: max(workspace.lines("rough", 0), default=0) >= 110, PATIENCE, 0.05)
    os.kill(rank_process(workspace.pod("rough", 0, 1)["metadata"]["uid"]), signal.SIGKILL)
    wait_for("step 250", lambda: max(workspace.lines("rough", 1), default=0) >= 250, PATIENCE, 0.05)
    workspace.evict(workspace.pod("rough", 1, 0))
    rough = workspace.succeed("rough")

    attempts = [workspace.lines("rough", attempt) for attempt in range(3)]
    killed, evicted = rough["pastFailures"]
    assert (killed["class"], killed["budget"]) == ("Internal", "Program")
    assert (evicted["class"], evicted["budget"]) == ("Evicted", "Infrastructure")
    restarts = rough["restarts"]
    assert (restarts["program"], restarts["infrastructure"]) == (1, 1)
    assert (rough["attempt"], len(attempts[2]) > 0) == (2, True)

    # What was lost: less than one interval by the kill, nothing by the eviction.
    parents = [
        json.loads((workspace.files("rough") / f"attempts/{n}/parent.json").read_text())
        for n in (1, 2)
    ]
    assert [parent["attempt"] for parent in parents] == [0, 1]
    assert parents[0]["step"] % INTERVAL == 0
    assert 0 <= max(attempts[0]) - parents[0]["step"] <= INTERVAL
    assert max(attempts[1]) == parents[1]["step"]
    assert rough["resumedFrom"] == {"attempt": 1, "step": parents[1]["step"]}
    assert killed["stepsRedone"] == max(0, killed["step"] - parents[0]["step"])
    assert evicted["stepsRedone"] == 0
    assert restarts["stepsRedone"] == killed["stepsRedone"]

    # The curve is that of the undisturbed run at every step, and so is the result, bit for bit.
    expected = workspace.lines("calm", 0)
    assert sorted(expected) == list(range(1, STEPS + 1))
    for lines in attempts:
        assert lines == {step: expected[step] for step in lines}
    assert set().union(*attempts) == set(expected)
    assert rough["metrics"] == calm["metrics"]
    for path in (
        "attempts/{}/adapter/adapter_model.safetensors",
        "output/merged/model.safetensors",
    ):
        there = workspace.files("rough") / path.format(2)
        assert there.read_bytes() == (workspace.files("calm") / path.format(0)).read_bytes(), path
    print(
        f"lost {restarts['stepsRedone']} of {STEPS} steps; killed at {max(attempts[0])}, went on "
        f"from {parents[0]['step']}; evicted at {max(attempts[1])}, went on from "
        f"{parents[1]['step']}"
    )
