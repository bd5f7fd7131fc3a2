"""export: one CPU pod that merges, checks and publishes the result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..api.types import StageName
from ..destinations import login
from ..plan import TrainingPlan
from ..sources import SOURCES
from .job import build_job
from .pod import alone, container_resources, pod_template

REUSED_PATH = f"{SOURCES}/reused"
"""Where the pod finds the result of another job."""


def build_export_job(
    plan: TrainingPlan,
    attempt: int,
    train_attempt: int | None,
    avoid: Sequence[str] = (),
    suspect: Sequence[str] = (),
) -> dict[str, Any]:
    """The Job ``<name>-x<attempt>``, for the weights of training attempt ``train_attempt``;
    ``avoid`` and ``suspect`` as for ``elsewhere``.

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
            volumes.append(opens.volume(name))
            mounts.append({"name": name, "mountPath": opens.folder, "readOnly": True})
    if plan.reused:  # on the claim of the result, by the rule that chose it
        volume = "workspace" if plan.output_claim in (None, plan.claim_name) else "output"
        mounts.append(
            {
                "name": volume,
                "mountPath": REUSED_PATH,
                "subPath": plan.reused.path,
                "readOnly": True,
            }
        )
    # Not in run.json: it would have to be written anew for every job once prepare is done.
    env = []
    if plan.lock:
        env.append({"name": "FINETUNE_LOCK", "value": json.dumps(plan.lock.wire())})
    if plan.scored:
        said = [scorer.wire() for scorer in plan.scored]
        env.append({"name": "FINETUNE_SCORERS", "value": json.dumps(said)})
    if plan.reused:
        env.append({"name": "FINETUNE_REUSE", "value": plan.reused.job})
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
        pod=alone(plan.spec.export, avoid, suspect),
    )
    return build_job(plan, StageName.EXPORT, attempt, template)
