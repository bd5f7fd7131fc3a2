"""A published folder: how it takes its place, and what is told of all of them together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.prepare import manifest as manifests

log = logging.getLogger(__name__)


def publish_output(
    temporary: Path, target: Path, facts: dict[str, Any], *, replace: bool = False
) -> dict[str, Any]:
    """Seal and rename. What another job published at this place is moved aside, not deleted, unless
    ``replace`` says that it is the same.

    ``facts`` stand in the manifest, which is returned; ``facts["job"]`` is the owner.
    """
    manifest = manifests.seal(temporary, manifests.digest_of(facts), facts)
    if target.exists() and not replace:
        try:
            owner = manifests.read_manifest(target)["job"]["uid"]
        except (OSError, json.JSONDecodeError, KeyError):
            owner = "unknown"
        if owner != facts["job"]["uid"]:
            aside = _free_name(target.with_name(f"{target.name}.replaced-{owner[:8]}"))
            log.warning("%s holds another job's output; moved to %s", target, aside.name)
            target.rename(aside)
    manifests.publish(temporary, target)
    return manifest


def describe(published: Mapping[str, dict[str, Any]], step: int | None) -> dict[str, Any]:
    """The artifact of a stage's result, from the manifests by folder."""
    files = [entry for manifest in published.values() for entry in manifest["files"].values()]
    return {
        "formats": [name.capitalize() for name in published],
        "digest": manifests.digest_of({name: m["digest"] for name, m in published.items()}),
        "bytes": sum(entry["bytes"] for entry in files),
        **({"step": step} if step else {}),
    }


def _free_name(path: Path) -> Path:
    candidates = [path, *(path.with_name(f"{path.name}-{n}") for n in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
