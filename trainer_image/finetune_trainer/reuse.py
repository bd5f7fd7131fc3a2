"""Taking a result that was published before, instead of training it again.

Only files that agree with the hashes of their manifest are taken, and only with the lock that is
wanted. Everything else is refused with a reason, and the job trains.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from finetune_trainer.config import FOLDERS, Lock, RunConfig
from finetune_trainer.lock import read_lock
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.published import publish_output, release
from finetune_trainer.stage_attempt import StageAttempt

log = logging.getLogger(__name__)

_OF_THE_FOLDER = ("version", "inputDigest", "digest", "files")
"""Entries of a manifest that are made anew."""


class RefusedError(Exception):
    """This result cannot be taken."""


def published_result(place: str | None) -> dict[str, Any] | None:
    """What lies at the place of the result already: job, UID, lock and formats; None: nothing that
    could be reused. Files are not checked here."""
    if place is None:
        return None
    formats, owners = [], []
    for form, name in FOLDERS.items():
        try:
            job = manifests.read_manifest(Path(place) / name)["job"]
            owners.append((str(job["name"]), str(job["uid"]), read_lock(Path(place) / name)))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        formats.append(form)
    if not owners or any(owner[1] != owners[0][1] for owner in owners):
        return None  # leftovers of several jobs are no result of one
    name, uid, lock = owners[0]
    return {"job": name, "uid": uid, "lock": lock["digest"], "formats": formats}


def reuse_result(
    config: RunConfig,
    lock: Lock,
    job: str,
    source: Path,
    output: Path,
    serving: Path | None = None,
    attempt: StageAttempt | None = None,
) -> dict[str, Any]:
    """Publish below ``output`` what the FineTuneJob ``job`` published in ``source``, if it is the
    result of ``lock``. ``attempt`` of export; None: the only one.

    Returns what export returns; or ``refused``, and then nothing was published.
    """
    attempt = attempt or StageAttempt(output, "export", owner=config.job.uid)
    names = [FOLDERS[form] for form in config.output.formats]
    published: dict[str, dict[str, Any]] = {}
    try:
        copies = [_copied(attempt, config, lock, source / name, output / name) for name in names]
    except RefusedError as error:
        log.warning("the result of %s is not taken: %s", job, error)
        for name in names:
            attempt.clear(output / name)
        return {"refused": str(error)}
    for name, (folder, manifest) in zip(names, copies, strict=True):
        found = {key: value for key, value in manifest.items() if key not in _OF_THE_FOLDER}
        facts = {"job": config.job.model_dump(), "trainedBy": _trained_by(manifest)}
        same = _is_same(source / name, output / name)
        published[name] = publish_output(
            attempt, folder, output / name, facts, {**found, **facts}, replace=same
        )
    first = copies[0][1]
    log.info("took the result of %s: same lock, all hashes agree", job)
    return {
        "artifact": release(attempt, config, output, published, serving),
        **({"gate": first["gate"]} if "gate" in first else {}),
        "train": first.get("train", {}),
    }


def _copied(
    attempt: StageAttempt, config: RunConfig, lock: Lock, origin: Path, target: Path
) -> tuple[Path, dict[str, Any]]:
    """Copy a published folder beside its place and check the copy. Raises ``RefusedError``."""
    name = origin.name
    try:
        manifest = manifests.read_manifest(origin)
        files, locked = dict(manifest["files"]), read_lock(origin)["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"{name} is gone or has no lock: {error}") from error
    if locked != lock.digest:
        raise RefusedError(f"{name} has another lock: {locked}")
    if name == FOLDERS["GGUF"] and manifest.get("type") != config.output.gguf_type:
        raise RefusedError(
            f"{name} has weights of type {manifest.get('type')}, not {config.output.gguf_type}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = attempt.scratch(target)
    for file in files:
        path = folder / file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RefusedError(f"{name}: {file} lies outside its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(origin / file, path)
        except FileNotFoundError as error:
            raise RefusedError(f"{name}: {file} is missing") from error
    found = manifests.describe_files(folder)
    if wrong := next((file for file in files if found.get(file) != files[file]), None):
        raise RefusedError(f"{name}: {wrong} does not agree with its hash")
    return folder, manifest


def _is_same(one: Path, other: Path) -> bool:
    """The result lies at its place already; by now a copy of it was checked."""
    return one.exists() and other.exists() and one.samefile(other)


def _trained_by(manifest: dict[str, Any]) -> Any:
    """The job that trained it: a result may be taken from one that had taken it itself."""
    return manifest.get("trainedBy", manifest["job"])
