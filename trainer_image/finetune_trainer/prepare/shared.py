"""Prepared data that the jobs of a namespace share on their claim.

An entry is a folder, named by the digest of everything that decided it (see ``content``). It
appears by one rename, is never written to again, and is copied by each job that takes it: what a
job trains on is its own. A copy that does not agree with its digests is not used, and the entry is
removed. Nothing here ends a job: without the folder, or the room, it prepares by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from finetune_trainer.durable import sync
from finetune_trainer.prepare import manifest as manifests

ENTRY = "entry.json"
MAX_ENTRIES = 64
ROOM = 10
"""All entries together take at most one part in so many of what is free on the claim."""
_ABANDONED_SECONDS = 24 * 3600
"""So old are leftovers that nobody works on any more."""
_FASTER = (errno.ENOTEMPTY, errno.EEXIST)
"""What renaming an entry says where another pod made it meanwhile."""
_NAME = re.compile(r"[0-9a-f]{64}")
_LEFT = re.compile(r"\.[0-9a-f]{64}\.(tmp|old)\..*")

log = logging.getLogger(__name__)


class _DamagedError(Exception):
    """The entry is not what was written."""


class SharedData:
    """The entries in ``folder``. Several pods may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, key: str, target: Path) -> dict[str, Any] | None:
        """Copy the entry into the empty folder ``target``; returns what was said of it.

        None where there is none that is whole; then ``target`` is as empty as before.
        """
        entry = self._place(key)
        try:
            if not entry.exists():
                return None
            facts = _copied(entry, key, target)
        except (OSError, _DamagedError) as error:  # also where another pod makes room meanwhile
            log.warning("shared data %s is not taken: %s", entry.name[:12], error)
            _remove(target)
            target.mkdir()
            if isinstance(error, _DamagedError):
                self._drop(entry)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry / ENTRY)  # the last one to make room
        return facts

    def keep(self, key: str, data: Path, apart: tuple[str, ...], facts: dict[str, Any]) -> None:
        """Make an entry of the folder ``data``, without its manifest and the files ``apart``,
        unless there is one or no room for it."""
        entry = self._place(key)
        temporary = self._folder / f".{entry.name}.tmp.{uuid.uuid4().hex[:8]}"
        try:
            self._sweep()
            if entry.exists() or not self._make_room(_size(data)):
                return
            left_out = shutil.ignore_patterns(manifests.MANIFEST, *apart)
            shutil.copytree(data, temporary, ignore=left_out)
            told = {"key": key, "facts": facts, "files": manifests.describe_files(temporary)}
            told["digest"] = manifests.digest_of(told)
            (temporary / ENTRY).write_text(json.dumps(told))
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            temporary.rename(entry)
            sync(self._folder)
            log.info("other jobs of the namespace may take this data: %s", entry.name[:12])
        except OSError as error:
            if error.errno not in _FASTER:
                log.warning("this data is not kept for other jobs: %s", error)
        finally:
            _remove(temporary)

    def _place(self, key: str) -> Path:
        return self._folder / key.removeprefix("sha256:")

    def _make_room(self, size: int) -> bool:
        """Remove those that were not used for the longest time until ``size`` bytes more fit."""
        entries: dict[Path, tuple[float, int]] = {}
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another pod makes room
                    entries[path] = (path / ENTRY).stat().st_mtime, _size(path)
        taken = sum(bytes_ for _, bytes_ in entries.values())
        limit = (shutil.disk_usage(self._folder).free + taken) // ROOM
        if size > limit:
            log.info("this data is not kept for other jobs: %d bytes of %d allowed", size, limit)
            return False
        oldest_first = sorted(entries, key=lambda path: entries[path][0])
        while oldest_first and (taken + size > limit or len(oldest_first) >= MAX_ENTRIES):
            oldest = oldest_first.pop(0)
            taken -= entries[oldest][1]
            log.info("shared data %s makes room", oldest.name[:12])
            self._drop(oldest)
        return True

    def _drop(self, entry: Path) -> None:
        """Nobody sees half of it: the name goes first."""
        gone = self._folder / f".{entry.name}.old.{uuid.uuid4().hex[:8]}"
        try:
            entry.rename(gone)
        except OSError:
            return  # somebody else does it, or may not
        _remove(gone)

    def _sweep(self) -> None:
        """Remove what pods left that were killed."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
                if old and _LEFT.fullmatch(path.name):
                    _remove(path)


def _copied(entry: Path, key: str, target: Path) -> dict[str, Any]:
    told = _read(entry, key)
    shutil.copytree(entry, target, ignore=shutil.ignore_patterns(ENTRY), dirs_exist_ok=True)
    if manifests.describe_files(target) != told["files"]:
        raise _DamagedError("its files do not agree with their digests")
    facts: dict[str, Any] = told["facts"]
    return facts


def _read(entry: Path, key: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((entry / ENTRY).read_text())
        digest = told.pop("digest")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamagedError(f"{ENTRY} is gone or none") from error
    if told.get("key") != key or manifests.digest_of(told) != digest:
        raise _DamagedError(f"{ENTRY} does not agree with its digest")
    return told


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
