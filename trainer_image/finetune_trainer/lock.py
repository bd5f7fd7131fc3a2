"""The reproducibility lock beside a published model: what decided it, and where it comes from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_trainer.config import Lock, RunConfig
from finetune_trainer.errors import StageError

LOCK = "lock.json"
_COMPUTING = ("torch", "deepspeed", "transformers", "peft", "tokenizers", "numpy")


def versions(config: RunConfig) -> dict[str, str]:
    """Versions of Python and of the libraries that compute; those that are not there are left
    out."""
    found = {"python": platform.python_version()}
    for name in (*_COMPUTING, *computing_besides(config)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def computing_besides(config: RunConfig) -> tuple[str, ...]:
    """Libraries that compute in some jobs: kernels of GPUs, and of weights in few bits."""
    kernels = ("liger-kernel", "triton") if config.workers.device == "GPU" else ()
    return (*kernels, *(("bitsandbytes",) if config.method.quantized else ()))


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
    (folder / LOCK).write_text(json.dumps(lock_content(lock, model), indent=1))


def lock_content(lock: Lock | None, model: Mapping[str, Any]) -> dict[str, Any]:
    """The lock and the lineage of the model, as ``lock.json`` and the card have them; empty where
    there is no lock."""
    if lock is None:
        return {}
    content = lock.model_dump(by_alias=True, exclude_none=True)
    lineage = model.get("lineage")
    return content | ({"lineage": lineage} if lineage else {})


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of a published folder. Raises ``OSError`` and ``ValueError``."""
    content = json.loads((folder / LOCK).read_text())
    if not isinstance(content, dict) or not isinstance(content.get("digest"), str):
        raise ValueError(f"{LOCK} is none")
    return content
