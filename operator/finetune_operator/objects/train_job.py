"""train: the gang. One Indexed Job is one attempt; a dead rank ends all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api.types import StageName
from ..plan import TrainingPlan
from ..run_config import METRICS_PORT
from .elsewhere import elsewhere
from .job import build_job
from .labels import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL, PRIORITY_LABEL, QUEUE_LABEL
from .pod import container_resources, field_ref, placement, pod_template

GPU = "nvidia.com/gpu"


def build_train_job(
    plan: TrainingPlan, attempt: int, avoid: Sequence[str] = (), suspect: Sequence[str] = ()
) -> dict[str, Any]:
    """The Job ``<name>-a<attempt>``. ``avoid``: names of nodes that it must not be placed on;
    ``suspect``: on which only where there is no room elsewhere."""
    workers = plan.spec.workers
    resources = container_resources(workers.resources)
    if workers.gpus_per_worker:
        limits = {**resources.get("limits", {}), GPU: workers.gpus_per_worker}
        resources = {**resources, "limits": limits}
    pod: dict[str, Any] = {
        # Gives each pod the address <pod>.<service>; rank 0's is MASTER_ADDR.
        "subdomain": plan.service_name,
        "terminationGracePeriodSeconds": workers.termination_grace_period_seconds,
        "affinity": elsewhere(avoid, suspect, _affinity(plan, attempt)),
    }
    pod |= placement(workers)
    if workers.scheduler_name:
        pod["schedulerName"] = workers.scheduler_name
    template = pod_template(
        plan,
        StageName.TRAIN,
        attempt,
        resources=resources,
        env=_environment(plan, attempt),
        volumes=[
            # Counts against the container's memory limit; without a limit of its own it could
            # take half of the node.
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": str(workers.shared_memory)},
            }
        ],
        mounts=[{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
        container={
            "ports": _ports(workers.ranks_per_pod),
            "readinessProbe": {
                "httpGet": {"path": "/healthz", "port": METRICS_PORT},
                "periodSeconds": 2,
                "timeoutSeconds": 2,
                "failureThreshold": 15,  # a busy interpreter is not an unready gang
            },
        },
        pod=pod,
    )
    return _queued(plan, build_job(plan, StageName.TRAIN, attempt, template))


def _queued(plan: TrainingPlan, job: dict[str, Any]) -> dict[str, Any]:
    """Held back until its queue admits it. Suspended from the first moment: without the queue's
    webhook, or without the queue, the gang would go past everybody else's quota."""
    queue = plan.spec.queue
    if queue is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = queue.name
        if queue.priority_class:
            job["metadata"]["labels"][PRIORITY_LABEL] = queue.priority_class
        job["spec"]["suspend"] = True
    return job


def _ports(ranks: int) -> list[dict[str, Any]]:
    """Where each local rank serves its metrics: ``metrics``, ``metrics-1``, …"""
    names = ("metrics", *(f"metrics-{rank}" for rank in range(1, ranks)))
    return [{"name": name, "containerPort": METRICS_PORT + rank} for rank, name in enumerate(names)]


def _environment(plan: TrainingPlan, attempt: int) -> list[dict[str, Any]]:
    job = plan.job_name(StageName.TRAIN, attempt)
    index = f"metadata.annotations['{INDEX_LABEL}']"
    return [
        {"name": "JOB_COMPLETION_INDEX", "valueFrom": field_ref(index)},
        {"name": "MASTER_ADDR", "value": f"{job}-0.{plan.service_name}"},
        {"name": "MASTER_PORT", "value": str(plan.master_port(attempt))},
        *({"name": var.name, "value": var.value} for var in plan.spec.workers.env),
    ]


def _affinity(plan: TrainingPlan, attempt: int) -> dict[str, Any]:
    """The user's affinity, and our wish to spread the gang over hosts."""
    affinity = _wire_affinity(plan)
    if plan.spec.workers.count > 1:
        spread = {
            "weight": 50,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {
                    "matchLabels": {JOB_LABEL: plan.key.name, ATTEMPT_LABEL: str(attempt)}
                },
            },
        }
        apart = affinity.setdefault("podAntiAffinity", {})
        apart.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).append(spread)
    return affinity


def _wire_affinity(plan: TrainingPlan) -> dict[str, Any]:
    """Our API's affinity in the words of the pod API, which nests label selectors."""
    if plan.spec.workers.affinity is None:
        return {}
    affinity = plan.spec.workers.affinity.wire()
    for side in ("podAffinity", "podAntiAffinity"):
        for name, terms in affinity.get(side, {}).items():
            affinity[side][name] = [
                {**term, "podAffinityTerm": _term(term["podAffinityTerm"])}
                if "podAffinityTerm" in term
                else _term(term)
                for term in terms
            ]
    return affinity


def _term(term: dict[str, Any]) -> dict[str, Any]:
    nested = {name: value for name, value in term.items() if name != "matchLabels"}
    nested["labelSelector"] = {"matchLabels": term.get("matchLabels", {})}
    return nested
