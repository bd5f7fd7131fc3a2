"""A published folder: how it takes its place, and where it goes from there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.config import FOLDERS, RunConfig
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.publishing.destinations import push_all
from finetune_trainer.stage_attempt import StageAttempt

SERVING = "serving.yaml"
DIFFERENCE = "quantizationLogitDifference"


def publish_output(
    attempt: StageAttempt,
    made: Path,
    target: Path,
    facts: dict[str, Any],
    found: dict[str, Any],
    *,
    replace: bool = False,
) -> dict[str, Any]:
    """Seal and publish; ``replace``: what another job published at this place is the same.

    The manifest, which is returned, holds ``facts``, on which the result depends, and ``found``,
    what is known of it besides; ``facts["job"]`` is the owner.
    """
    manifest = manifests.seal(made, manifests.digest_of(facts), {**facts, **found})
    attempt.publish(made, target, replace=replace)
    return manifest


def release(
    attempt: StageAttempt,
    config: RunConfig,
    output: Path,
    published: Mapping[str, dict[str, Any]],
    serving: Path | None,
) -> dict[str, Any]:
    """Put ``serving`` beside the merged model and push to the destinations; the artifact, as the
    stage tells it. ``published`` are the manifests by folder. Raises ``Preempted`` before that,
    where a later attempt has begun."""
    attempt.give_way()
    if serving is not None and serving.exists() and "merged" in published:
        _replace(serving, output / SERVING)
    digests = {name: manifest["digest"] for name, manifest in published.items()}
    pushed = push_all(config.output.destinations, output, config.job, digests)
    files = [entry for manifest in published.values() for entry in manifest["files"].values()]
    whole = next(published[name] for name in ("merged", "gguf", "adapter") if name in published)
    return {
        "formats": [form for form, name in FOLDERS.items() if name in published],
        "digest": manifests.digest_of(digests),
        "bytes": sum(entry["bytes"] for entry in files),
        "maxLogitDifference": whole.get("maxLogitDifference", 0.0),
        "smokeTest": whole.get("smokeTest") or {},
        **({DIFFERENCE: whole[DIFFERENCE]} if DIFFERENCE in whole else {}),
        **({"destinations": pushed} if pushed else {}),
        **({"step": whole["step"]} if whole.get("step") else {}),
    }


def _replace(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
