"""How long a container needs until it works: the operator's, and a training pod's.

Both with our real images on the local cluster, one start after the other. The operator works once
the API server has answered all of its watches; a training container, once its first optimizer step
is done. The job is the quickstart's own, cut down to one step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.installed import pods_of, running_job, runs, until
from benchmarks.processes import container_start
from local_cluster import LocalCluster
from quickstart import follow
from quickstart.kube import Kube, Object
from quickstart.manifests import API_VERSION, KIND, Images
from quickstart.options import NAMESPACE
from quickstart.release import RELEASE, SYSTEM_NAMESPACE

POD_NAME = "authentication.kubernetes.io/pod-name"
WATCHED = {"finetunejobs", "jobs", "pods"}


@dataclass(frozen=True)
class TrainingStart:
    """Seconds of rank 0's way from the start of its container to the end of its first step."""

    launcher: float
    """Until the rank answers probes: container, launcher, interpreter, configuration."""
    torch: float
    """Until torch is imported."""
    join: float
    """Until all ranks have met; DeepSpeed is imported meanwhile."""
    model: float
    """Until model, adapter and optimizer stand; transformers and peft are imported first."""
    self_test: float
    """Until packing, mask and gradients are proved, to a tenth of a second."""
    baseline: float
    """Until the untouched model is scored."""
    step: float
    """Until the first optimizer step is done."""

    @property
    def own(self) -> float:
        """All but the baseline evaluation, which is work that the job asks for."""
        return self.total - self.baseline

    @property
    def total(self) -> float:
        return float(sum(getattr(self, part.name) for part in fields(self)))


class StartUps:
    """The measurements, on a cluster with the operator installed."""

    def __init__(self, cluster: LocalCluster, kube: Kube, images: Images) -> None:
        self._cluster = cluster
        self._kube = kube
        self._images = images

    def operator(self) -> float:
        """Replace the operator's pod. Seconds from its container's start to its last watch."""
        old = self._operator_pod()
        assert old is not None  # noqa: S101 - helm waited for it
        position = self._cluster.paths.audit_log.stat().st_size
        self._kube.delete("v1", "Pod", old["metadata"]["name"], SYSTEM_NAMESPACE)
        pod = until("the operator's successor", lambda: self._successor(old))
        name = pod["metadata"]["name"]
        start = container_start(name, "finetune_operator")
        return until("the operator's watches", lambda: self._watching(position, name)) - start

    def training(self, name: str) -> TrainingStart:
        """Run one job up to its first step, then delete it and wait until its pods are gone."""
        with running_job(self._cluster, self._kube, self._images, name, steps=1) as attempts:
            return self._first_step(name, attempts)

    def _first_step(self, name: str, attempts: Path) -> TrainingStart:
        pod = until("the training pod", lambda: self._running_pod(name))
        start = container_start(pod["spec"]["hostname"], "finetune_trainer")
        attempt = attempts / pod["metadata"]["labels"]["finetune.dev/attempt"]
        lines = until("the first step", lambda: _first_lines(attempt / "metrics.jsonl"))
        log = (attempt / "logs" / "rank-0.log").read_text()
        *marks, ready = [start, *marks_of(log)]
        marks += [ready - self_test_seconds(log), ready, *(line["at"] for line in lines)]
        return TrainingStart(*(late - early for early, late in pairwise(marks)))

    def _running_pod(self, name: str) -> Object | None:
        """Rank 0's pod, once its container runs."""
        status = (self._kube.get(API_VERSION, KIND, name, NAMESPACE) or {}).get("status", {})
        if follow.finished(status):
            raise RuntimeError(f"the job {name} ended before its first step: {status}")
        for pod in pods_of(self._kube, name, ",batch.kubernetes.io/job-completion-index=0"):
            if pod["metadata"]["labels"]["finetune.dev/stage"] == "train" and runs(pod):
                return pod
        return None

    def _operator_pod(self) -> Object | None:
        selector = f"app.kubernetes.io/name={RELEASE}"
        pods = self._kube.list("v1", "Pod", SYSTEM_NAMESPACE, selector)
        return next((p for p in pods if "deletionTimestamp" not in p["metadata"]), None)

    def _successor(self, old: Object) -> Object | None:
        pod = self._operator_pod()
        if pod is None or pod["metadata"]["uid"] == old["metadata"]["uid"]:
            return None
        return pod if runs(pod) else None

    def _watching(self, position: int, pod: str) -> float | None:
        """When the API server had answered the first watch of each kind by this pod."""
        first: dict[str, float] = {}
        for entry in self._audited(position, pod):
            if entry["verb"] == "watch":
                first.setdefault(entry["objectRef"]["resource"], _unix(entry["stageTimestamp"]))
        return max(first.values()) if first.keys() >= WATCHED else None

    def _audited(self, position: int, pod: str) -> Iterator[dict[str, Any]]:
        """The pod's requests after ``position`` in the audit log; its token bears its name."""
        with self._cluster.paths.audit_log.open() as log:
            log.seek(position)
            for line in log:
                entry = json.loads(line)
                if entry["user"].get("extra", {}).get(POD_NAME) == [pod]:
                    yield entry


def _first_lines(path: Path) -> list[dict[str, Any]] | None:
    """The baseline evaluation and the first step, once both are done."""
    if not path.exists():
        return None
    lines = [line for line in map(json.loads, path.read_text().splitlines()) if "step" in line]
    return lines[:2] if len(lines) >= 2 else None


MARKS = (
    r"rank 0 of \d+ answers",
    "torch .* is loaded",
    r"all \d+ ranks have met",
    "ready to train",
)
"""Lines of rank 0's log, in their order."""


def marks_of(log: str) -> list[float]:
    """When each of ``MARKS`` was logged."""
    found = []
    for mark in MARKS:
        line = re.search(rf"^(\S+ \S+) INFO \S+: {mark}", log, re.MULTILINE)
        if line is None:
            raise RuntimeError(f"the log of rank 0 has no line {mark!r}")
        found.append(_unix(line[1].replace(",", ".")))
    return found


def self_test_seconds(log: str) -> float:
    """How long rank 0 proved what every attempt proves before its first step."""
    found = re.search(r"self-test passed in (\d+\.\d+) s", log)
    if found is None:
        raise RuntimeError("the log of rank 0 does not say that its self-test passed")
    return float(found[1])


def _unix(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
