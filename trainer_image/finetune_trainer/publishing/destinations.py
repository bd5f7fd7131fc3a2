"""The destinations of the result, one after the other. What lies on the claim stays, come what may.

Each takes a new version at once or not at all: a tag, a branch and the manifest in a bucket move
with the last request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.config import FOLDERS, Destination, JobRef, OciPlace
from finetune_trainer.errors import PublishFailed, PublishRefused
from finetune_trainer.object_store import BucketError
from finetune_trainer.publishing import hub, s3
from finetune_trainer.publishing.image import build_image
from finetune_trainer.publishing.registry import Registry, RegistryError, read_login

log = logging.getLogger(__name__)


def push_all(
    destinations: tuple[Destination, ...],
    output: Path,
    job: JobRef,
    digests: Mapping[str, str],
    pause_seconds: float = 2.0,
) -> list[dict[str, str]]:
    """Push; ``name``, ``uri`` and ``digest`` of each. ``digests``: of the forms below ``output``.

    Pushing the same again moves nothing. Raises ``PublishRefused`` or ``PublishFailed``.
    """
    pushed: list[dict[str, str]] = []
    for each in destinations:
        folder = output / FOLDERS[each.format]
        log.info("pushing the %s to %s", folder.name, each.name)
        try:
            uri, digest = _push(each, folder, job, digests[folder.name], pause_seconds)
        except (RegistryError, hub.HubPushError, BucketError) as error:
            kind = PublishFailed if error.again else PublishRefused
            place = f"{each.field}.{'hub' if each.hub else 'oci' if each.oci else 's3'}"
            stays = f"; the result lies on its claim, {_told(pushed)}"
            raise kind(f"{place} ({each.name}): {error}{stays}", error.hint) from error
        pushed.append({"name": each.name, "uri": uri, "digest": digest})
    return pushed


def _push(
    each: Destination, folder: Path, job: JobRef, digest: str, pause_seconds: float
) -> tuple[str, str]:
    if each.hub:
        message = f"{job.namespace}/{job.name}: {digest}"
        commit = hub.push(folder, each.hub, message, pause_seconds)
        return f"hf://{each.hub.repository}", commit
    if each.s3:
        s3.push(folder, each.s3)
        return each.s3.uri, digest
    assert each.oci is not None  # noqa: S101 - one of the three, by the API
    host, repository, tag = split_image(each.oci.image)
    login = read_login(Path(each.oci.login_path), host) if each.oci.login_path else None
    registry = Registry(
        host,
        repository,
        plain_http=each.oci.plain_http,
        login=login,
        pause_seconds=pause_seconds,
    )
    image = build_image(folder, _annotations(job, each.oci, digest))
    return f"image://{each.oci.image}", registry.push(image, tag)


def split_image(image: str) -> tuple[str, str, str]:
    """``registry/repository:tag`` → its three parts."""
    host, _, rest = image.partition("/")
    repository, _, tag = rest.rpartition(":")
    return host, repository, tag


def _annotations(job: JobRef, oci: OciPlace, digest: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": job.name,
        "org.opencontainers.image.ref.name": split_image(oci.image)[2],
        "dev.finetune.job": f"{job.namespace}/{job.name}",
        "dev.finetune.artifact-digest": digest,
    }


def _told(pushed: list[dict[str, str]]) -> str:
    names = ", ".join(each["name"] for each in pushed)
    return f"and was pushed to {names}" if names else "and was pushed nowhere yet"
