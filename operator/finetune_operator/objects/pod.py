"""What the pods of all stages have in common: a restricted pod around the trainer image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api.types import Resources, Stage, StageName, UserContainer, Workers
from ..plan import TrainingPlan
from .elsewhere import elsewhere
from .labels import stage_labels

CONTAINER = "trainer"
USER = 1000


def field_ref(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


def pod_template(
    plan: TrainingPlan,
    stage: StageName,
    attempt: int,
    *,
    resources: dict[str, Any],
    env: list[dict[str, Any]] | None = None,
    volumes: list[dict[str, Any]] | None = None,
    mounts: list[dict[str, Any]] | None = None,
    container: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A pod template of the restricted profile; ``container`` and ``pod`` add fields of a stage.

    No user field reaches it but those of the API's allow-list.
    """
    spec: dict[str, Any] = {
        **restricted(),
        "containers": [
            {
                "name": CONTAINER,
                "image": plan.image,
                "imagePullPolicy": plan.platform.settings.image_pull_policy,
                "args": [stage.value],
                "env": [*_environment(plan, attempt), *(env or [])],
                "resources": resources,
                "terminationMessagePolicy": "File",
                "securityContext": closed(),
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                    {"name": "run", "mountPath": "/etc/finetune", "readOnly": True},
                    {"name": "workspace", "mountPath": "/workspace", "subPath": plan.workspace},
                    *(mounts or []),
                ],
                **(container or {}),
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "run", "configMap": {"name": plan.config_map_name}},
            {"name": "workspace", "persistentVolumeClaim": {"claimName": plan.claim_name}},
            *(volumes or []),
        ],
        **(pod or {}),
    }
    return labelled(plan, stage, attempt, spec)


def restricted() -> dict[str, Any]:
    """Fields of a pod that knows nothing of the API and runs as nobody special."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def closed() -> dict[str, Any]:
    """The security context of each container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def own_command(wish: UserContainer) -> dict[str, Any]:
    """What the user says of a container of his own."""
    words = (("command", wish.command), ("args", wish.args))
    return {
        "image": wish.image,
        **{name: list(given) for name, given in words if given},
        "resources": container_resources(wish.resources),
        # What it has said last is the reason, where it fails.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": closed(),
    }


def labelled(
    plan: TrainingPlan, stage: StageName, attempt: int, spec: dict[str, Any]
) -> dict[str, Any]:
    """The template of a stage's pods, with the account and the secrets for images of the job."""
    workers = plan.spec.workers
    if workers.service_account_name:
        spec["serviceAccountName"] = workers.service_account_name
    if workers.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": ref.name} for ref in workers.image_pull_secrets]
    return {"metadata": {"labels": stage_labels(plan, stage, attempt)}, "spec": spec}


def alone(wish: Stage, avoid: Sequence[str], suspect: Sequence[str]) -> dict[str, Any]:
    """Where the one pod of a stage may go; nodes as for ``elsewhere``."""
    affinity = elsewhere(avoid, suspect, {})
    return placement(wish) | ({"affinity": affinity} if affinity else {})


def placement(wish: Workers | Stage) -> dict[str, Any]:
    """Where the pods of a stage may go, and before whom."""
    pod: dict[str, Any] = {}
    if wish.node_selector:
        pod["nodeSelector"] = dict(wish.node_selector)
    if wish.tolerations:
        pod["tolerations"] = [toleration.wire() for toleration in wish.tolerations]
    if wish.priority_class_name:
        pod["priorityClassName"] = wish.priority_class_name
    return pod


def container_resources(resources: Resources | None) -> dict[str, Any]:
    return resources.wire() if resources else {}


def _environment(plan: TrainingPlan, attempt: int) -> list[dict[str, Any]]:
    platform = plan.platform.settings.trainer_environment
    return [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        {"name": "FINETUNE_ATTEMPT", "value": str(attempt)},
        {"name": "FINETUNE_POD", "valueFrom": field_ref("metadata.name")},
        {"name": "FINETUNE_NODE", "valueFrom": field_ref("spec.nodeName")},
        *({"name": name, "value": value} for name, value in platform),
    ]
