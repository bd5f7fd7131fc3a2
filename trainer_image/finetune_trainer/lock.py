"""The reproducibility lock beside a published model: what decided it, and where it comes from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_trainer.config import Lock
from finetune_trainer.errors import StageError

LOCK = "lock.json"
_COMPUTING = ("torch", "deepspeed", "transformers", "peft", "tokenizers", "numpy")
_NAMES = {
    "model": "Prepared model",
    "modelCommit": "Commit of the model",
    "data": "Prepared data",
    "spec": "What the trainer was told",
    "image": "Trainer image",
    "imageDigest": "Digest of the image",
    "seed": "Seed",
}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute; those that are not there are left
    out."""
    found = {"python": platform.python_version()}
    for name in _COMPUTING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_lock(
    folder: Path, lock: Lock | None, model: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Write ``lock.json`` into a folder that is to be published; nothing where there is no lock.

    ``model`` and ``data`` are the manifests of prepare. Raises ``StageError`` where they are not
    what was locked: the result would bear the name of another one.
    """
    if lock is None:
        return
    for name, locked, found in (("model", lock.model, model), ("data", lock.data, data)):
        if found["digest"] != locked:
            raise StageError(
                f"the prepared {name} has digest {found['digest']} and was locked with {locked}",
                f"somebody changed the folder {name} among the job's files; create the job anew",
            )
    content = lock.model_dump(by_alias=True, exclude_none=True)
    lineage = model.get("lineage") or {}
    content |= {"lineage": lineage} if lineage else {}
    (folder / LOCK).write_text(json.dumps(content, indent=1))


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of a published folder. Raises ``OSError`` and ``ValueError``."""
    content = json.loads((folder / LOCK).read_text())
    if not isinstance(content, dict) or not isinstance(content.get("digest"), str):
        raise ValueError(f"{LOCK} is none")
    return content


def lock_section(lock: Lock | None, lineage: Mapping[str, Any]) -> str:
    """The lock and the lineage as Markdown, for the model card; empty where there is neither."""
    lines: list[str] = []
    if lineage:
        lines += ["", "## Lineage", ""]
        lines += [f"1. {_ancestor(job)}" for job in lineage.get("jobs", [])]
        commit = f" at commit `{lineage['baseCommit']}`" if lineage.get("baseCommit") else ""
        lines.append(f"1. `{lineage.get('base', 'unknown')}`{commit}")
    if lock:
        content = lock.model_dump(by_alias=True, exclude_none=True)
        lines += ["", "## Reproducibility", "", f"Lock `{lock.digest}` ([{LOCK}]({LOCK})):", ""]
        lines += ["| | |", "|---|---|"]
        lines += [
            f"| {name} | `{content[key]}` |" for key, name in _NAMES.items() if key in content
        ]
        lines += [f"| {name} | {version} |" for name, version in lock.versions.items()]
    return "".join(f"{line}\n" for line in lines)


def _ancestor(job: Mapping[str, Any]) -> str:
    step = f", step {job['step']}" if "step" in job else ""
    data = f", trained on data `{job['data']}`" if "data" in job else ""
    return f"FineTuneJob `{job.get('job')}`{step}{data}"
