"""Many FineTuneJobs at once, on a control plane of their own.

Every figure of speed is a ratio to a floor measured in the same run: one client that creates as
many Indexed Jobs with ``IN_FLIGHT`` requests open. Nothing trains: the prepare pods ask for more
CPUs than any node has, so what is measured is the operator and the API server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config

from local_cluster import LocalCluster

IN_FLIGHT = 20
NAMESPACE = "bench"
SYSTEM = "finetune-system"
OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
IDLE_SECONDS = 120
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 600
WRITES = ("create", "update", "patch", "delete")


@dataclass(frozen=True)
class Figures:
    """What one run measured; times in seconds, memory in MB (10^6 bytes)."""

    jobs: int
    floor_seconds: float
    first_child_seconds: float
    writes_per_job: dict[str, float]
    idle_writes: int
    memory_mb: float
    restart_seconds: float
    load: float

    @property
    def ratio(self) -> float:
        return self.first_child_seconds / self.floor_seconds


class Bench:
    """One cluster with the operator installed."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        api: Any = config.new_client_from_config(str(cluster.kubeconfig))  # type: ignore[no-untyped-call]
        api.configuration.connection_pool_maxsize = IN_FLIGHT
        self._core: Any = client.CoreV1Api(api)
        self._batch: Any = client.BatchV1Api(api)
        self._custom: Any = client.CustomObjectsApi(api)

    def run(self, jobs: int) -> Figures:
        """All figures for ``jobs`` FineTuneJobs that appear at once."""
        self._set_up()
        floor = self._timed(lambda: self._create_all(jobs, self._create_plain_job))
        before = self._audit_position()
        ours = self._first_children(jobs)
        self._quiet(before)
        written = list(self._writes(before))
        idle_from = self._audit_position()
        time.sleep(IDLE_SECONDS)
        return Figures(
            jobs=jobs,
            floor_seconds=floor,
            first_child_seconds=ours,
            writes_per_job={
                name: round(count / jobs, 2) for name, count in sorted(Counter(written).items())
            },
            idle_writes=len(list(self._writes(idle_from))),
            memory_mb=self._operator_memory() / 1e6,
            restart_seconds=self._restart(),
            load=os.getloadavg()[0],
        )

    def _set_up(self) -> None:
        self._core.create_namespace({"metadata": {"name": NAMESPACE}})
        self._core.create_namespace({"metadata": {"name": "bench-floor"}})
        claim = {
            "metadata": {"name": "workspace"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        self._core.create_namespaced_persistent_volume_claim(NAMESPACE, claim)
        _until(
            "the default service accounts",
            lambda: all(
                self._core.list_namespaced_service_account(name).items
                for name in (NAMESPACE, "bench-floor")
            ),
        )

    def _create_all(self, jobs: int, create: Callable[[int], Any]) -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(create, range(jobs)))

    def _create_plain_job(self, number: int) -> None:
        container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "1000"}}}
        pod = {"restartPolicy": "Never", "containers": [container]}
        spec = {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "template": {"spec": pod},
        }
        body = {"metadata": {"name": f"floor-{number:04}"}, "spec": spec}
        self._batch.create_namespaced_job("bench-floor", body, _preload_content=False)

    def _create_ours(self, number: int) -> None:
        self._custom.create_namespaced_custom_object(
            "finetune.dev", "v1alpha1", NAMESPACE, "finetunejobs", finetune_job(number)
        )

    def _first_children(self, jobs: int) -> float:
        began = time.monotonic()
        self._create_all(jobs, self._create_ours)

        def all_there() -> bool:
            answer = self._batch.list_namespaced_job(
                NAMESPACE, resource_version="0", _preload_content=False
            )
            return len(json.loads(answer.data)["items"]) >= jobs

        _until("a child Job of every FineTuneJob", all_there)
        return time.monotonic() - began

    def _quiet(self, position: int, seconds: float = 15.0) -> None:
        """Wait until the operator has written nothing for ``seconds``."""
        known, since = -1, time.monotonic()
        while time.monotonic() - since < seconds:
            count = sum(1 for _ in self._writes(position))
            if count != known:
                known, since = count, time.monotonic()
            time.sleep(1)

    def _audit_position(self) -> int:
        return self._cluster.paths.audit_log.stat().st_size

    def _writes(self, position: int) -> Iterator[str]:
        """The operator's writes after ``position`` in the audit log, without Events."""
        with self._cluster.paths.audit_log.open() as log:
            log.seek(position)
            for line in log:
                entry = json.loads(line)
                what = entry.get("objectRef", {})
                kind = "/".join(filter(None, (what.get("resource"), what.get("subresource"))))
                if (
                    entry["user"]["username"] == OPERATOR
                    and entry["verb"] in WRITES
                    and kind != "events"
                ):
                    yield f"{entry['verb']} {kind}"

    def _operator_pod(self) -> Any:
        pods = self._core.list_namespaced_pod(
            SYSTEM, label_selector="app.kubernetes.io/name=finetune-operator"
        ).items
        return next((p for p in pods if p.metadata.deletion_timestamp is None), None)

    def _operator_memory(self) -> int:
        """Resident bytes of the operator's process, from its own /metrics."""
        return int(self._metric("process_resident_memory_bytes"))

    def _metric(self, name: str) -> float:
        address = f"http://{self._operator_pod().status.pod_ip}:9402/metrics"
        with urllib.request.urlopen(address, timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"{address} has no {name}")
        return float(found[1])

    def _restart(self) -> float:
        """Seconds from the container start of a new operator until its queue is empty."""
        old = self._operator_pod()
        self._core.delete_namespaced_pod(old.metadata.name, SYSTEM)

        def successor() -> bool:
            pod = self._operator_pod()
            if pod is None or pod.metadata.uid == old.metadata.uid:
                return False
            return bool(pod.status.container_statuses and pod.status.container_statuses[0].ready)

        _until("the operator's successor", successor)
        _until("an empty queue", lambda: self._metric("finetune_operator_queue_depth") == 0)
        started = self._operator_pod().status.container_statuses[0].state.running.started_at
        return time.time() - float(started.timestamp())

    def _timed(self, work: Callable[[], None]) -> float:
        began = time.monotonic()
        work()
        return time.monotonic() - began


def finetune_job(number: int) -> dict[str, Any]:
    """A small LoRA job whose prepare pod fits on no node."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": f"bench-{number:04}"},
        "spec": {
            "model": {"uri": "hf://example/model"},
            "data": {
                "train": [{"name": "rows", "uri": "hf://datasets/example/rows"}],
                "sequenceLength": 256,
            },
            "method": {"lora": {"rank": 8}},
            "training": {"steps": 10, "globalBatchSize": 2},
            "workers": {"count": 2, "ranksPerWorker": 1},
            "prepare": {"resources": {"requests": {"cpu": "1000"}}},
            "storage": {"claimRef": {"name": "workspace"}},
        },
    }


def _until(what: str, probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(POLL_SECONDS)


def install_operator(cluster: LocalCluster, helm: Path, chart: Path, image: str) -> None:
    """The operator from our chart, with its default settings."""
    repository, tag = image.rsplit(":", 1)
    subprocess.run(
        [
            str(helm), "install", "finetune-operator", str(chart),
            "--kubeconfig", str(cluster.kubeconfig), "--namespace", SYSTEM, "--create-namespace",
            "--set-string", f"image.repository={repository},image.tag={tag}",
            "--wait", "--timeout", "300s",
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
