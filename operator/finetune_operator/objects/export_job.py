"""export: one CPU pod that merges, checks and publishes the result."""

from __future__ import annotations

from typing import Any

from ..api.types import StageName
from ..destinations import login
from ..plan import TrainingPlan
from .job import build_job
from .pod import container_resources, pod_template


def build_export_job(plan: TrainingPlan, attempt: int, train_attempt: int | None) -> dict[str, Any]:
    """The Job ``<name>-x<attempt>``, for the weights of training attempt ``train_attempt``.

    None leaves the choice to the trainer: the newest attempt that left weights.
    """
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if plan.output_claim:
        volume = "workspace"
        if plan.output_claim != plan.claim_name:
            volume = "output"
            volumes.append(
                {"name": volume, "persistentVolumeClaim": {"claimName": plan.output_claim}}
            )
        mount = {"name": volume, "mountPath": "/output"}
        if plan.output_path:
            mount["subPath"] = plan.output_path
        mounts.append(mount)
    for number, destination in enumerate(plan.spec.output.destinations or ()):
        if opens := login(destination):
            name = f"login-{number}"
            item = {"key": opens.key, "path": opens.key}
            secret = {"secretName": opens.secret, "items": [item], "defaultMode": 0o440}
            volumes.append({"name": name, "secret": secret})
            mounts.append({"name": name, "mountPath": opens.folder, "readOnly": True})
    env = []
    if train_attempt is not None:
        env.append({"name": "FINETUNE_TRAIN_ATTEMPT", "value": str(train_attempt)})
    template = pod_template(
        plan,
        StageName.EXPORT,
        attempt,
        resources=container_resources(plan.spec.export.resources),
        env=env,
        volumes=volumes,
        mounts=mounts,
    )
    return build_job(plan, StageName.EXPORT, attempt, template)
