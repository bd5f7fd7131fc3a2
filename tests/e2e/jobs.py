"""FineTuneJobs as tests apply and watch them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from e2e.kubectl import PATIENCE_SECONDS, Kubectl, wait_for

GRACE_SECONDS = 30
FINETUNEJOBS = "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs"
PODS = "/api/v1/namespaces/{}/pods"


class Jobs:
    """FineTuneJobs of one namespace, and what Kubernetes really has of them."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl = kubectl
        self.namespace = namespace

    def apply(self, name: str, *, steps: int = 10, seed: int = 1, **spec: Any) -> None:
        """A job of two pods with model and data on claim ``work``; ``spec`` adds and replaces.

        With the contract trainer a step takes a second, prepare and export ``seed`` seconds.
        """
        self._kubectl.apply(finetune_job(name, steps, seed, spec), namespace=self.namespace)

    def status(self, name: str) -> dict[str, Any]:
        return self._read(f"{FINETUNEJOBS}/{name}").get("status") or {}

    def reason(self, name: str) -> str:
        return conditions(self.status(name)).get("Reconciling", {}).get("reason", "")

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self._read(FINETUNEJOBS)["items"]]

    def patch(self, name: str, **spec: Any) -> None:
        body = json.dumps({"spec": spec})
        self._kubectl(
            "patch", "ftj", name, "--type=merge", "-p", body, namespace=self.namespace
        )  # fmt: skip

    def delete(self, name: str) -> None:
        self._kubectl("delete", "ftj", name, "--wait=false", namespace=self.namespace)

    def children(self, name: str, kinds: str = "jobs,pods,services,configmaps") -> dict[str, str]:
        """Kind and name → UID of everything that bears the job's label."""
        found = self._kubectl.json(
            "get", kinds, "-l", f"finetune.dev/job={name}", namespace=self.namespace
        )  # fmt: skip
        return {
            f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"]
            for item in found["items"]
        }

    def living_pods(self, name: str) -> set[str]:
        """Names of the job's pods whose containers have not ended yet."""
        selectors = {
            "labelSelector": f"finetune.dev/job={name}",
            "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
        }
        found = self._read(f"{PODS}?{urlencode(selectors)}")["items"]
        return {item["metadata"]["name"] for item in found}

    def _read(self, path: str) -> dict[str, Any]:
        return self._kubectl.api.json("GET", path.format(self.namespace))

    def wait_phase(
        self, name: str, *phases: str, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        def probe() -> Any:
            status = self.status(name)
            return status if status.get("phase") in phases else None

        status: dict[str, Any] = wait_for(f"{name} in {phases}", probe, seconds)
        return status


def finetune_job(name: str, steps: int, seed: int, spec: dict[str, Any]) -> dict[str, Any]:
    """The object; in ``spec``, ``training`` and ``workers`` are merged, all else replaces."""
    training, workers = spec.pop("training", {}), spec.pop("workers", {})
    if "gpusPerWorker" not in workers:
        workers = {"ranksPerWorker": 1, **workers}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "pvc://work/model"},
            "data": {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}]},
            "method": {"lora": {}},
            "training": {"steps": steps, "seed": seed, **training},
            "workers": {"count": 2, "terminationGracePeriodSeconds": GRACE_SECONDS, **workers},
            "storage": {"claimRef": {"name": "work"}},
            **spec,
        },
    }


def evict(kubectl: Kubectl, pod: dict[str, Any]) -> None:
    """Through the eviction API, as a drain does it."""
    meta = pod["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions of a status by type."""
    return {condition["type"]: condition for condition in status.get("conditions") or []}
