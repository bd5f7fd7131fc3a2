"""Fetching the objects below a key of a bucket: listed first, then loaded in pieces.

What is loaded is what was listed: an object that changes meanwhile ends in an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PreconditionError

from finetune_trainer.config import S3Place
from finetune_trainer.object_store import Bucket, BucketError, answered, connect

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

log = logging.getLogger(__name__)

_PIECE = 16 * 2**20
_AT_ONCE = 8
"""Pieces that are under way: they bound the memory."""
_MAX_OBJECTS = 100_000


@dataclass(frozen=True)
class Fetched:
    folder: Path
    files: list[str]
    """Names relative to the key; of a key that is an object itself, its last part."""


def fetch(
    place: S3Place,
    choose: Callable[[list[str]], list[str]],
    folder: Path,
    max_bytes: int | None = None,
) -> Fetched:
    """Load the object ``place.key``, or those below it that ``choose`` picks, into ``folder``.

    Raises ``BucketError``, and whatever ``choose`` raises.
    """
    bucket = connect(place, "read")
    with bucket.told():
        found, alone = _found(bucket)
    if not found:
        raise BucketError(
            f"there is nothing at {place.uri}",
            "check the key (an object, or what comes before the '/' of several), and that "
            "s3.endpoint is the S3 API and no web page",
        )
    chosen = sorted(found) if alone else choose(sorted(found))
    total = sum(found[name]["size"] for name in chosen)
    if max_bytes is not None and total > max_bytes:
        raise BucketError(
            f"{place.uri} holds {total} bytes of data, more than the limit of {max_bytes}",
            "name one file with the field file, or put the data on a claim (pvc://)",
        )
    for name in chosen:
        log.info("fetching s3://%s/%s", place.bucket, found[name]["path"])
        _load(bucket, found[name], folder / name)
    return Fetched(folder, chosen)


def _found(bucket: Bucket) -> tuple[dict[str, ObjectMeta], bool]:
    """Objects by name, and whether the key is an object itself."""
    key, denied = bucket.place.key, None
    if key:
        try:
            meta = obstore.head(bucket.store, key)
            return {PurePosixPath(key).name: meta}, True
        except FileNotFoundError:
            pass
        except BaseError as error:
            if not answered(error):
                raise
            denied = error  # it says no more than that; an answer to a list has a reason
    found: dict[str, ObjectMeta] = {}
    for batch in obstore.list(bucket.store, prefix=key or None):
        for meta in batch:
            name = meta["path"].removeprefix(f"{key}/") if key else meta["path"]
            found[name] = meta
        if len(found) > _MAX_OBJECTS:
            raise BucketError(
                f"there are more than {_MAX_OBJECTS} objects at {bucket.place.uri}",
                "name a longer prefix",
            )
    if denied and not found:
        raise denied
    return found, False


def _load(bucket: Bucket, meta: ObjectMeta, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size, tag = meta["size"], meta["e_tag"]

    def load_piece(start: int) -> None:
        end = min(start + _PIECE, size)
        options: GetOptions = {"range": (start, end)}
        if tag:
            options["if_match"] = tag
        try:
            with bucket.told():
                content = obstore.get(bucket.store, meta["path"], options=options).bytes()
        except BucketError as error:
            if isinstance(error.__cause__, PreconditionError | FileNotFoundError):
                raise _changed(bucket, meta) from error
            raise
        if len(content) != end - start:
            raise _changed(bucket, meta)
        if os.pwrite(file.fileno(), content, start) != len(content):
            raise OSError(f"{path.name} could not be written")

    with path.open("wb") as file, ThreadPoolExecutor(_AT_ONCE) as pool:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told before anything loads
        for _ in pool.map(load_piece, range(0, size, _PIECE)):
            pass


def _changed(bucket: Bucket, meta: ObjectMeta) -> BucketError:
    return BucketError(
        f"s3://{bucket.place.bucket}/{meta['path']} changed while it was read",
        "start again when it is written",
    )
