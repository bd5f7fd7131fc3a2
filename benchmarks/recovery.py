"""How long a gang that lost a pod needs until it trains on, beside a cold start of the same job.

Our real images on the local cluster; PID 1 of a training pod gets SIGKILL from the host. The job
is the quickstart's with a checkpoint every few steps.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.installed import pods_of, running_job, runs, until
from benchmarks.processes import container_start, first_process
from benchmarks.start_up import marks_of
from local_cluster import LocalCluster
from quickstart import follow
from quickstart.kube import Kube, Object
from quickstart.manifests import API_VERSION, KIND, Images
from quickstart.options import NAMESPACE

SAVE_STEPS = 2
KILL_AT_STEP = 3
STEPS = 6
TRAIN = "finetune.dev/stage=train"
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class ColdStart:
    """Seconds of the first attempt, from its Kubernetes Job's creation."""

    containers: float
    """Until rank 0's container runs: scheduling, volumes, sandbox."""
    ready: float
    """Until model, adapter and optimizer stand: launcher, imports, rendezvous, model."""
    baseline: float
    """Until the untouched model is scored: once in a job's life."""
    step: float
    """Until the first optimizer step is done."""

    @property
    def total(self) -> float:
        return self.containers + self.ready + self.baseline + self.step

    @property
    def own(self) -> float:
        return self.total - self.baseline


@dataclass(frozen=True)
class Recovery:
    """Seconds from the death of a pod to the end of the next optimizer step, in its parts."""

    lost: int
    """Steps that were trained again."""
    noticed: float
    """Until its Kubernetes Job says that it fails, or the job's status that the gang is over."""
    ended: float
    """Until the status says that the gang is over, its pods gone, and another attempt follows."""
    pause: float
    """Until the next Job exists; the first loss of a pod is followed by no pause."""
    containers: float
    """Until rank 0's container runs."""
    ready: float
    """Until the checkpoint is loaded: launcher, imports, rendezvous, model."""
    step: float
    """Until the first optimizer step is done."""

    @property
    def total(self) -> float:
        parts = (self.noticed, self.ended, self.pause, self.containers, self.ready, self.step)
        return sum(parts)


class Recoveries:
    """The measurement, on a cluster with the operator installed."""

    def __init__(self, cluster: LocalCluster, kube: Kube, images: Images) -> None:
        self._cluster = cluster
        self._kube = kube
        self._images = images

    def measure(self, name: str) -> tuple[ColdStart, Recovery]:
        """One job: its start, the death of its second pod, its way back."""
        spec = {"checkpoint": {"everySteps": SAVE_STEPS}, "evaluation": {"baseline": "Measure"}}
        job = running_job(self._cluster, self._kube, self._images, name, steps=STEPS, **spec)
        with job as attempts:
            return self._life(name, attempts)

    def _life(self, name: str, attempts: Path) -> tuple[ColdStart, Recovery]:
        created = until("the first gang", lambda: self._seen(f"{name}-a0"))
        start = self._started(name, 0)
        first = until("the first step", lambda: lines_with(attempts / "0", "loss"))[0]
        baseline = lines_with(attempts / "0", "evalLoss")[0]
        ready = marks_of((attempts / "0/logs/rank-0.log").read_text())[-1]
        moments = (created, start, ready, float(baseline["at"]), float(first["at"]))
        cold = ColdStart(*(late - early for early, late in pairwise(moments)))

        def far() -> Any:
            steps = lines_with(attempts / "0", "loss")
            return steps[-1]["step"] >= KILL_AT_STEP and self._saved(name) if steps else None

        until(f"step {KILL_AT_STEP} and a checkpoint", far)
        (victim,) = pods_of(self._kube, name, f",{TRAIN},{INDEX}=1")
        process = first_process(victim["spec"]["hostname"], "finetune_trainer")
        os.kill(int(process.name), signal.SIGKILL)
        killed = time.time()
        noticed = until("a word of it", lambda: self._failing(f"{name}-a0") or self._goes_on(name))
        ended = until("the end of the gang", lambda: self._goes_on(name))
        again = until("the next gang", lambda: self._seen(f"{name}-a1"))
        start = self._started(name, 1)
        lines = until("the next step", lambda: lines_with(attempts / "1", "loss"))
        ready = marks_of((attempts / "1/logs/rank-0.log").read_text())[-1]
        done = int(lines_with(attempts / "0", "loss")[-1]["step"])
        way = (killed, noticed, ended, again, start, ready, float(lines[0]["at"]))
        parts = [late - early for early, late in pairwise(way)]
        return cold, Recovery(done - int(lines[0]["step"]) + 1, *parts)

    def _seen(self, job: str) -> float | None:
        """Now, if that Kubernetes Job exists."""
        return time.time() if self._kube.get("batch/v1", "Job", job, NAMESPACE) else None

    def _failing(self, job: str) -> float | None:
        found = self._kube.get("batch/v1", "Job", job, NAMESPACE) or {}
        told = {c["type"] for c in found.get("status", {}).get("conditions", ())}
        return time.time() if told & {"FailureTarget", "Failed"} else None

    def _goes_on(self, name: str) -> float | None:
        """Now, if the status speaks of the next attempt: there may be no pause before it."""
        status = self._status(name)
        told = status.get("phase") == "Restarting" or status.get("attempt") == 1
        return time.time() if told else None

    def _saved(self, name: str) -> bool:
        latest = (self._status(name).get("checkpoints") or {}).get("latest") or {}
        return bool(latest.get("verified"))

    def _status(self, name: str) -> dict[str, Any]:
        status = (self._kube.get(API_VERSION, KIND, name, NAMESPACE) or {}).get("status", {})
        if follow.finished(status):
            raise RuntimeError(f"the job {name} ended too soon: {status}")
        return dict(status)

    def _started(self, name: str, attempt: int) -> float:
        """When rank 0's container of an attempt began."""
        only = f",{TRAIN},finetune.dev/attempt={attempt},{INDEX}=0"

        def running() -> Object | None:
            return next((pod for pod in pods_of(self._kube, name, only) if runs(pod)), None)

        pod = until(f"rank 0 of attempt {attempt}", running)
        return container_start(pod["spec"]["hostname"], "finetune_trainer")


def lines_with(attempt: Path, key: str) -> list[dict[str, Any]]:
    """The lines with this number in an attempt's metrics.jsonl; the last may be half written."""
    path = attempt / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for text in whole if key in (line := json.loads(text))]
