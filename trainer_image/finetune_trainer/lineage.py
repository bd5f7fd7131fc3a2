"""Which checkpoint an attempt starts from, and the fence against late writers.

Before it loads, attempt n writes ``parent.json`` once, exclusively: the attempt and step it resumed
from, and the digest of that manifest. Later attempts follow only this chain, so what a gang that
was believed dead goes on saving is never read: it lies outside.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import manifest
from finetune_trainer.durable import sync
from finetune_trainer.errors import NoValidCheckpoint
from finetune_trainer.manifest import CorruptCheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """A verified checkpoint of an earlier attempt."""

    attempt: int
    step: int
    digest: str
    """SHA-256 of its manifest."""
    path: Path

    def content(self) -> dict[str, Any]:
        return {"attempt": self.attempt, "step": self.step, "manifest": self.digest}


def attempt_folder(workspace: Path, attempt: int) -> Path:
    return workspace / "attempts" / str(attempt)


def checkpoints_of(workspace: Path, attempt: int) -> list[tuple[int, Path]]:
    """Published checkpoints of one attempt as (step, folder), newest first. Not verified."""
    folder = attempt_folder(workspace, attempt) / "checkpoints"
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    ]
    return sorted(found, reverse=True)


def chain(workspace: Path, attempt: int) -> Iterator[tuple[int, int | None]]:
    """Attempts before ``attempt`` whose checkpoints count, newest first.

    The second number is the last step that counts: an ancestor's checkpoints after the step from
    which its successor went on are no part of the history. ``None``: all of them.
    """
    current, limit = attempt - 1, None
    while current >= 0:
        yield current, limit
        path = attempt_folder(workspace, current) / "parent.json"
        if not path.exists():  # it ended before it got here, so it made no history
            current -= 1
            continue
        parent = json.loads(path.read_text())
        if parent.get("attempt") is None:
            return
        current, limit = int(parent["attempt"]), int(parent["step"])


def newest_verified(
    workspace: Path, attempt: int, suspect: Collection[tuple[int, int]] = ()
) -> Parent | None:
    """The checkpoint that ``attempt`` has to start from; None: there never was one.

    ``suspect`` are pairs of attempt and step: what that attempt and those before it saved after so
    many steps may hold the harm that ended it, so older ones go first, and among the suspect ones
    the oldest. Raises ``NoValidCheckpoint`` when there are some and none is whole: starting again
    from nothing is then the user's decision.
    """
    faults: list[str] = []
    for ancestor, step, path in _by_trust(workspace, attempt, suspect):
        try:
            digest = manifest.verify(path)
        except CorruptCheckpointError as error:
            log.warning("skipping checkpoint step %d of attempt %d: %s", step, ancestor, error)
            faults.append(f"step {step} of attempt {ancestor}: {error}")
            continue
        return Parent(ancestor, step, digest, path)
    if faults:
        raise NoValidCheckpoint(
            f"no checkpoint passes verification: {'; '.join(faults)}",
            hint="delete attempts/ on the job's volume to start over",
        )
    return None


def _by_trust(
    workspace: Path, attempt: int, suspect: Collection[tuple[int, int]]
) -> Iterator[tuple[int, int, Path]]:
    """The checkpoints of the chain as (attempt, step, folder), in the order to try them."""
    doubtful: list[tuple[int, int, Path]] = []
    for ancestor, limit in chain(workspace, attempt):
        for step, path in checkpoints_of(workspace, ancestor):
            if limit is not None and step > limit:
                continue
            if any(ancestor <= by and step >= since for by, since in suspect):
                doubtful.append((ancestor, step, path))
            else:
                yield ancestor, step, path
    yield from reversed(doubtful)


def claim(workspace: Path, attempt: int, parent: Parent | None) -> None:
    """Write ``parent.json`` of this attempt, once for ever. Raises ``FileExistsError``.

    A hard link is exclusive on network file systems too, and the file appears whole.
    """
    folder = attempt_folder(workspace, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".parent.{os.getpid()}.tmp"
    content = parent.content() if parent else {"attempt": None}
    with temporary.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, folder / "parent.json")
    finally:
        temporary.unlink()
    sync(folder)
