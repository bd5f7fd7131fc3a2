"""Pushing a folder to a prefix of a bucket; ``manifest.json`` is what makes it a result.

A bucket has no commit over several objects. While objects are on their way the manifest there says
``unfinished`` and names old and new ones; the folder's own manifest takes its place at the end. So
a reader of the manifest never believes in half a version, and a push that broke off is repeated.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import obstore

from finetune_trainer.config import S3Place
from finetune_trainer.object_store import UNFINISHED, Bucket, connect
from finetune_trainer.prepare.manifest import MANIFEST

log = logging.getLogger(__name__)

_PART = 16 * 2**20
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4


def push(folder: Path, place: S3Place) -> None:
    """Make the prefix hold the files of ``folder``; of others only those leave that an earlier
    push brought.

    Where it holds them already nothing moves. Raises ``BucketError``.
    """
    bucket = connect(place, "write")
    manifest = (folder / MANIFEST).read_bytes()
    files = {name: entry["bytes"] for name, entry in json.loads(manifest)["files"].items()}
    with bucket.told():
        earlier = _manifest_there(bucket)
        if earlier == json.loads(manifest) and _sizes(bucket, files) == files:
            log.info("%s has this result already", place.uri)
            return
        before = set(earlier.get("files", {}))
        marked = {UNFINISHED: True, "files": {name: {} for name in sorted(before | files.keys())}}
        obstore.put(bucket.store, _key(place, MANIFEST), json.dumps(marked).encode())
        for name in sorted(files, key=lambda name: (-files[name], name)):
            log.info("pushing %d bytes: %s", files[name], name)
            _put(bucket, _key(place, name), folder / name, files[name])
        for name in sorted(before - files.keys()):
            obstore.delete(bucket.store, _key(place, name))
        obstore.put(bucket.store, _key(place, MANIFEST), manifest)


def _put(bucket: Bucket, key: str, path: Path, size: int) -> None:
    obstore.put(
        bucket.store,
        key,
        path,
        chunk_size=max(_PART, -(-size // _MAX_PARTS)),
        max_concurrency=_PARTS_AT_ONCE,
    )


def _manifest_there(bucket: Bucket) -> dict[str, Any]:
    """Empty where there is none of ours."""
    try:
        content = obstore.get(bucket.store, _key(bucket.place, MANIFEST)).bytes()
        found = json.loads(bytes(content))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    ours = isinstance(found, dict) and isinstance(found.get("files"), dict)
    return found if ours else {}


def _sizes(bucket: Bucket, names: dict[str, int]) -> dict[str, int]:
    """Of those that are there."""
    place = bucket.place
    return {
        name: meta["size"]
        for batch in obstore.list(bucket.store, prefix=place.key or None)
        for meta in batch
        if (name := meta["path"].removeprefix(f"{place.key}/" if place.key else "")) in names
    }


def _key(place: S3Place, name: str) -> str:
    return f"{place.key}/{name}" if place.key else name
