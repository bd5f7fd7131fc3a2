"""prepare: one CPU pod that fetches, checks and tokenizes before any GPU is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api.types import Augment, Reuse, StageName
from ..object_store import login_path, login_volume
from ..plan import TrainingPlan
from ..sources import CHAT_TEMPLATE_PATH, PUBLISHED, S3_LOGINS, SOURCES, Source
from .job import build_job
from .pod import alone, container_resources, own_command, pod_template

AUGMENT = "augment"
"""Container of ``spec.data.augment``."""
SHARED_DATA = "/shared-data"
"""Prepared data that jobs of a namespace take from each other; seen by this stage alone."""
TOKEN_PATH = f"{SOURCES}/secret/token"


def build_prepare_job(
    plan: TrainingPlan, attempt: int, avoid: Sequence[str] = (), suspect: Sequence[str] = ()
) -> dict[str, Any]:
    """The Job ``<name>-p<attempt>``, with every source mounted read-only; ``avoid`` and ``suspect``
    as for ``elsewhere``."""
    volumes, mounts = _source_volumes(plan)
    env = []
    model = plan.spec.model
    if model.chat_template:
        ref = model.chat_template.config_map_key_ref
        folder, _, file = CHAT_TEMPLATE_PATH.rpartition("/")
        volumes.append(
            {
                "name": "chat-template",
                "configMap": {"name": ref.name, "items": [{"key": ref.key, "path": file}]},
            }
        )
        mounts.append({"name": "chat-template", "mountPath": folder, "readOnly": True})
    if model.secret_ref:
        folder, _, key = TOKEN_PATH.rpartition("/")
        volumes.append(
            {
                "name": "token",
                "secret": {
                    "secretName": model.secret_ref.name,
                    "items": [{"key": key, "path": key}],
                    "defaultMode": 0o440,
                },
            }
        )
        mounts.append({"name": "token", "mountPath": folder, "readOnly": True})
        env.append({"name": "HF_TOKEN_PATH", "value": TOKEN_PATH})
    augment = plan.spec.data.augment
    if augment:
        volumes.append({"name": "tmp-augment", "emptyDir": {}})
        env.append({"name": "FINETUNE_AUGMENTED", "value": f"/workspace/{_folder(attempt)}"})
    if plan.shared_data:
        mounts.append(
            {"name": "workspace", "mountPath": SHARED_DATA, "subPath": plan.shared_data},
        )
        env.append({"name": "FINETUNE_SHARED_DATA", "value": SHARED_DATA})
    secrets = dict.fromkeys(
        source.bucket.secret for source in plan.sources if source.bucket and source.bucket.secret
    )
    for number, secret in enumerate(secrets):
        name = f"s3-{number}"
        volumes.append(login_volume(name, secret))
        folder = login_path(S3_LOGINS, secret)
        mounts.append({"name": name, "mountPath": folder, "readOnly": True})
    template = pod_template(
        plan,
        StageName.PREPARE,
        attempt,
        resources=container_resources(plan.spec.prepare.resources),
        env=env,
        volumes=volumes,
        mounts=mounts,
        pod=alone(plan.spec.prepare, avoid, suspect),
    )
    if augment:
        pod = template["spec"]
        (main,) = pod["containers"]
        fetch = {**main, "name": "fetch", "args": ["fetch"]}
        pod["initContainers"] = [fetch, _augment(plan, augment, attempt)]
    return build_job(plan, StageName.PREPARE, attempt, template)


def _folder(attempt: int) -> str:
    """Of the rows before and after, among the files of the job; each attempt has its own."""
    return f"augment/{attempt}"


def _augment(plan: TrainingPlan, wish: Augment, attempt: int) -> dict[str, Any]:
    """It sees rows, and neither sources, model nor secrets."""
    folder = f"{plan.workspace}/{_folder(attempt)}"
    return {
        "name": AUGMENT,
        **own_command(wish),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "ROWS_IN", "value": "/rows/in"},
            {"name": "ROWS_OUT", "value": "/rows/out"},
        ],
        "volumeMounts": [
            {"name": "tmp-augment", "mountPath": "/tmp"},  # noqa: S108
            {
                "name": "workspace",
                "mountPath": "/rows/in",
                "subPath": f"{folder}/in",
                "readOnly": True,
            },
            {"name": "workspace", "mountPath": "/rows/out", "subPath": f"{folder}/out"},
        ],
    }


def _earlier_result(plan: TrainingPlan) -> tuple[Source, ...]:
    """The place of the result, where a result that lies there may be reused."""
    if not plan.output_claim or plan.spec.output.reuse is not Reuse.SAME_LOCK:
        return ()
    place = plan.output_path or None
    return (Source(PUBLISHED, "spec.output.uri", claim=plan.output_claim, sub_path=place),)


def _source_volumes(plan: TrainingPlan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One volume for each image and claim, one mount for each source."""
    names = {("claim", plan.claim_name): "workspace"}  # a volume that is there already
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for source in (*plan.sources, *_earlier_result(plan)):
        place = ("image", source.image) if source.image else ("claim", source.claim)
        kind, reference = place
        if reference is None:
            continue
        if (kind, reference) not in names:
            names[kind, reference] = f"source-{len(volumes)}"
            # How often an image is pulled is left to Kubernetes' rule: :latest each time.
            volume = (
                {"image": {"reference": reference}}
                if kind == "image"
                else {"persistentVolumeClaim": {"claimName": reference}}
            )
            volumes.append({"name": names[kind, reference], **volume})
        mount = {
            "name": names[kind, reference],
            "mountPath": f"{SOURCES}/{source.slot}",
            "readOnly": True,
        }
        if source.sub_path:
            mount["subPath"] = source.sub_path
        mounts.append(mount)
    return volumes, mounts
