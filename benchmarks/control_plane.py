"""One FineTuneJob's whole life, and very many at once, on a control plane of their own.

Every figure of speed is a ratio to a floor measured in the same run: one client that creates as
many Indexed Jobs with ``IN_FLIGHT`` requests open. Nothing trains: a whole life is that of the
contract trainer of the end-to-end tests, which does no mathematics, and the prepare pods of the
many ask for more CPUs than any node has. What is measured is the operator and the API server.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config

from benchmarks.audit import AuditLog
from benchmarks.idle_jobs import FAILING, Idle, IdleJobs, rows
from benchmarks.processes import cpu_seconds, first_process, process_start
from local_cluster import LocalCluster

IN_FLIGHT = 20
NAMESPACE = "bench"
SYSTEM = "finetune-system"
OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
IDLE_SECONDS = 120
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 900
LIFE = "bench-life"
IDLE = "bench-idle"
LIFE_STEPS = 60
"""Steps of the whole life; the contract trainer takes a second for each."""
PROGRESS_SECONDS = 10
MEMORY = "process_resident_memory_bytes"
QUEUE = "finetune_operator_queue"
WATCHING = "finetune_operator_resync_last_success_timestamp_seconds"
"""Set for the first time when all watches stand and their lists have been read."""
QUIET_SHARE = 0.2
"""Share of a core below which the operator counts as quiet; reading and deciding take a whole one.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class Life:
    """What one undisturbed FineTuneJob cost from its creation to its success."""

    writes: dict[str, int]
    """The operator's writes by verb and resource, without Events."""
    training_seconds: float
    """From the training pods' start to their end: so long there were progress updates."""

    @property
    def allowed(self) -> int:
        """The goal: 12, and one for each progress update."""
        return 12 + int(self.training_seconds // PROGRESS_SECONDS)


@dataclass(frozen=True)
class Restart:
    """One operator went, the next one came; times in seconds."""

    gap: float
    """From the SIGTERM of the old one to the start of the new one's process."""
    watching: float
    """From there until it watches."""
    quiet: float
    """From there until its queue is empty and it rests."""


@dataclass(frozen=True)
class Figures:
    """What one run measured; times in seconds, memory in MB (10^6 bytes)."""

    life: Life
    idle: Idle
    jobs: int
    floor_seconds: float
    first_child_seconds: float
    writes_per_job: dict[str, float]
    idle_writes: int
    many: int
    """FineTuneJobs in the figures of memory and restart, each with one child Job."""
    memory_mb: float
    memory_after_restart_mb: float
    restart: Restart

    @property
    def ratio(self) -> float:
        return self.first_child_seconds / self.floor_seconds


class Bench:
    """One cluster with the operator installed."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._audit = AuditLog(cluster.paths.audit_log, OPERATOR)
        api: Any = config.new_client_from_config(str(cluster.kubeconfig))  # type: ignore[no-untyped-call]
        api.configuration.connection_pool_maxsize = IN_FLIGHT
        self._api = api
        self._core: Any = client.CoreV1Api(api)
        self._batch: Any = client.BatchV1Api(api)
        self._custom: Any = client.CustomObjectsApi(api)

    def run(self, jobs: int, many: int, idle_jobs: int) -> Figures:
        """All figures: of one life, of ``idle_jobs`` beside one that fails, of ``jobs`` that appear
        at once, and of ``many`` that live."""
        self._set_up()
        life = self._life()
        idle = self._idle(idle_jobs)
        floor = self._timed(lambda: self._create_all(range(jobs), self._create_plain_job))
        before = self._audit.now()
        ours = self._timed(lambda: self._first_children(range(jobs)))
        self._rest(before)
        written = list(self._audit.writes(before, NAMESPACE))
        idle_from = self._audit.now()
        time.sleep(IDLE_SECONDS)
        idle_writes = len(list(self._audit.writes(idle_from, NAMESPACE)))
        self._first_children(range(jobs, many))
        self._rest(before)
        memory = self._metrics()[MEMORY]
        return Figures(
            life=life,
            idle=idle,
            jobs=jobs,
            floor_seconds=floor,
            first_child_seconds=ours,
            writes_per_job={
                name: round(count / jobs, 2) for name, count in sorted(Counter(written).items())
            },
            idle_writes=idle_writes,
            many=many,
            memory_mb=memory / 1e6,
            restart=self._restart(),
            memory_after_restart_mb=self._metrics()[MEMORY] / 1e6,
        )

    def _set_up(self) -> None:
        for name in (NAMESPACE, LIFE, IDLE, "bench-floor"):
            self._core.create_namespace({"metadata": {"name": name}})
        claim = {
            "metadata": {"name": "workspace"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        for name in (NAMESPACE, LIFE, IDLE):
            self._core.create_namespaced_persistent_volume_claim(name, claim)
        _until(
            "the default service accounts",
            lambda: all(
                self._core.list_namespaced_service_account(name).items
                for name in (NAMESPACE, LIFE, IDLE, "bench-floor")
            ),
        )

    def _life(self) -> Life:
        """One job alone, from its creation until the operator rests after its success."""
        before = self._audit.now()
        job = finetune_job("life", steps=LIFE_STEPS, cpus="100m")
        ftj = ("finetune.dev", "v1alpha1", LIFE, "finetunejobs")
        self._custom.create_namespaced_custom_object(*ftj, job)

        def ended() -> bool:
            found = self._custom.get_namespaced_custom_object(*ftj, "life")
            phase = found.get("status", {}).get("phase")
            if phase == "Failed":
                raise RuntimeError(f"the job failed: {json.dumps(found['status'])}")
            return bool(phase == "Succeeded")

        _until("the end of a whole life", ended)
        training = self._batch.read_namespaced_job("life-a0", LIFE).status
        time.sleep(2 * PROGRESS_SECONDS)  # what is written after the end counts too
        return Life(
            writes=dict(sorted(Counter(self._audit.writes(before, LIFE)).items())),
            training_seconds=(training.completion_time - training.start_time).total_seconds(),
        )

    def _idle(self, count: int) -> Idle:
        """So many idle jobs, and one that fails among them; afterwards they are gone."""
        ftj = ("finetune.dev", "v1alpha1", IDLE, "finetunejobs")
        names = [f"idle-{number:04}" for number in range(count)]
        before = self._audit.now()

        def create(number: int) -> None:
            job = finetune_job([*names, FAILING][number], steps=10, cpus="1000")
            if number == count:
                often = {"initial": 1, "max": 1}
                job["spec"]["recovery"] = {"maxInfrastructureRestarts": 1000,
                                           "backoffSeconds": often}  # fmt: skip
            self._custom.create_namespaced_custom_object(*ftj, job)

        self._create_all(range(count + 1), create)
        _until("a child Job of every idle job", lambda: self._count_jobs(IDLE) > count)
        self._rest(before, place=IDLE)
        idle = IdleJobs(self._api, IDLE, names, self._metrics_text).run()
        self._custom.delete_collection_namespaced_custom_object(*ftj)
        _until(
            "the end of the idle jobs",
            lambda: (
                not self._custom.list_namespaced_custom_object(*ftj)["items"]
                and not self._count_jobs(IDLE)
            ),
        )
        self._rest(before, place=IDLE)
        return idle

    def _count_jobs(self, place: str) -> int:
        answer = self._batch.list_namespaced_job(
            place, resource_version="0", _preload_content=False
        )
        return len(json.loads(answer.data)["items"])

    def _create_all(self, numbers: range, create: Callable[[int], Any]) -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(create, numbers))

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
        body = finetune_job(f"bench-{number:04}", steps=10, cpus="1000")
        self._custom.create_namespaced_custom_object(
            "finetune.dev", "v1alpha1", NAMESPACE, "finetunejobs", body
        )

    def _first_children(self, numbers: range) -> None:
        """Create the FineTuneJobs of these numbers at once; wait for a child Job of each."""
        self._create_all(numbers, self._create_ours)

        _until(
            "a child Job of every FineTuneJob",
            lambda: self._count_jobs(NAMESPACE) >= numbers.stop,
        )

    def _rest(self, position: int, seconds: float = 15.0, place: str = NAMESPACE) -> None:
        """Wait until the operator has written nothing for ``seconds``."""
        known, since = -1, time.monotonic()
        while time.monotonic() - since < seconds:
            count = sum(1 for _ in self._audit.writes(position, place))
            if count != known:
                known, since = count, time.monotonic()
            time.sleep(1)

    def _operator_pod(self) -> Any:
        pods = self._core.list_namespaced_pod(
            SYSTEM, label_selector="app.kubernetes.io/name=finetune-operator"
        ).items
        return next((p for p in pods if p.metadata.deletion_timestamp is None), None)

    def _metrics_text(self) -> str:
        address = f"http://{self._operator_pod().status.pod_ip}:9402/metrics"
        with urllib.request.urlopen(address, timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def _metrics(self) -> dict[str, float]:
        """The operator's own metrics that have no labels."""
        found = re.findall(r"^(\w+) (\S+)$", self._metrics_text(), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def _restart(self) -> Restart:
        """End the operator by SIGTERM and follow its successor until that rests."""
        old = self._operator_pod()
        told = time.time()
        self._core.delete_namespaced_pod(old.metadata.name, SYSTEM)

        def successor() -> Any:
            """Its pod, once it watches. The health probe costs it nothing, as metrics would."""
            pod = self._operator_pod()
            if pod is None or pod.metadata.uid == old.metadata.uid or not pod.status.pod_ip:
                return None
            try:
                urllib.request.urlopen(f"http://{pod.status.pod_ip}:8080/healthz", timeout=5)
            except OSError:
                return None
            return pod

        pod = _until("the operator's successor", successor)
        process = first_process(pod.metadata.name, "finetune_operator")
        began, watching = process_start(process), self._metrics()[WATCHING]
        return Restart(began - told, watching - began, self._quiet(process) - began)

    def _quiet(self, process: Path) -> float:
        """When the operator came to rest, as Unix time: hardly any CPU used for two seconds, and
        then nothing queued and nothing worked on. The pump has no queue that could be asked."""
        since = None
        before, at = cpu_seconds(process), time.time()
        while True:
            time.sleep(POLL_SECONDS)
            after, now = cpu_seconds(process), time.time()
            if after - before > QUIET_SHARE * (now - at):
                since = None
            elif since is None:
                since = at
            before, at = after, now
            if since is not None and at - since > 2:
                metrics = self._metrics()
                if not metrics[f"{QUEUE}_depth"] + metrics[f"{QUEUE}_busy"]:
                    return since
                since = None

    def _timed(self, work: Callable[[], None]) -> float:
        began = time.monotonic()
        work()
        return time.monotonic() - began


def finetune_job(name: str, *, steps: int, cpus: str) -> dict[str, Any]:
    """A small LoRA job; ``cpus`` is what its prepare pod asks for."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hf://example/model"},
            "data": {
                "train": [{"name": "rows", "uri": "hf://datasets/example/rows"}],
                "sequenceLength": 256,
            },
            "method": {"lora": {"rank": 8}},
            "training": {"steps": steps, "globalBatchSize": 2, "seed": 1},
            "workers": {"count": 2, "ranksPerWorker": 1},
            "prepare": {"resources": {"requests": {"cpu": cpus}}},
            "storage": {"claimRef": {"name": "workspace"}},
        },
    }


def _until(what: str, probe: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(POLL_SECONDS)
    return found


def install_operator(
    cluster: LocalCluster, helm: Path, chart: Path, image: str, trainer: str
) -> None:
    """The operator from our chart, with its default settings; ``trainer`` has a digest."""
    repository, tag = image.rsplit(":", 1)
    trainer_repository, digest = trainer.split("@")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "trainer.image.repository": trainer_repository,
        "trainer.image.digest": digest,
    }
    subprocess.run(
        [
            str(helm), "install", "finetune-operator", str(chart),
            "--kubeconfig", str(cluster.kubeconfig), "--namespace", SYSTEM, "--create-namespace",
            "--set-string", ",".join(f"{name}={value}" for name, value in values.items()),
            "--wait", "--timeout", "300s",
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def tables(figures: Figures) -> str:
    """The figures as Markdown."""
    life, restart, many = figures.life, figures.restart, f"{figures.many:,} live jobs"
    floor = f"floor: one client creates {figures.jobs} Indexed Jobs, {IN_FLIGHT} in flight"
    waiting = _listed(figures.writes_per_job)
    return f"""
One node, Kubernetes 1.36.3 (etcd without fsync; controller-manager and scheduler at
200 requests/s, burst 400, 10 concurrent Job syncs). The many jobs' prepare pods fit on no node;
the whole life is that of a job whose pods keep the trainer's contract and take a second a step.

| figure | goal (stretch) | measured |
|---|---|---|
| {floor} | | {figures.floor_seconds:.1f} s |
| first child Job of each of {figures.jobs} FineTuneJobs, from the first create | \
≤ 8 × floor (4 ×) | {figures.first_child_seconds:.1f} s = {figures.ratio:.1f} × |
| API writes of a whole life with {life.training_seconds:.0f} s of training, without Events | \
≤ 12 + one per {PROGRESS_SECONDS} s = {life.allowed} | {_listed(life.writes)} |
| API writes per job up to the waiting prepare pod, without Events | | {waiting} |
| writes in 2 idle minutes with {figures.jobs} jobs | 0 | {figures.idle_writes} |
{rows(figures.idle)}\
| operator memory with {many}, one child Job each; after a restart | ≤ 180 MB (150) | \
{figures.memory_mb:.0f} MB; {figures.memory_after_restart_mb:.0f} MB |
| operator's process start → watching, {many} | | {restart.watching:.1f} s |
| operator's process start → quiet, {many} | ≤ 10 s (5) | {restart.quiet:.1f} s |
| SIGTERM of the operator → process start of its successor | at once | {restart.gap:.1f} s |
"""


def _listed(writes: Mapping[str, float]) -> str:
    total = sum(writes.values())
    return f"{total:g}: " + ", ".join(f"{name} {count:g}" for name, count in writes.items())
