"""Which checkpoint an attempt starts from, and the fence against late writers.

Before it loads, attempt n writes ``parent.json`` once, exclusively: the attempt and step it resumed
from, and the digest of that manifest. Later attempts follow only this chain, so what a gang that
was believed dead goes on saving is never read: it lies outside.

Such a gang also goes on removing its old checkpoints, the one that its successor goes on from
among them. So attempt n first links the files of its parent into its own folder, where nobody else
removes anything.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import manifest
from finetune_trainer.durable import sync
from finetune_trainer.errors import NoValidCheckpoint
from finetune_trainer.manifest import CorruptCheckpointError, UnreadableCheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """A verified checkpoint of an earlier attempt."""

    attempt: int
    step: int
    digest: str
    """SHA-256 of its manifest."""
    path: Path
    damaged: tuple[str, ...] = ()
    """Newer ones that are not whole, and what is wrong with each."""

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


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of the history. Not verified."""

    attempt: int
    step: int
    path: Path
    digest: str | None = None
    """SHA-256 that its manifest must have, where a later attempt went on from it."""


def history(workspace: Path, attempt: int) -> Iterator[Candidate]:
    """The checkpoints that ``attempt`` may start from, newest first; some stand at two places.

    An ancestor's checkpoints after the step from which its successor went on are no part of it.
    """
    current, heir = attempt - 1, -1
    limit: int | None = None
    digest: str | None = None
    while current >= 0:
        kept = parent_folder(workspace, heir)
        if limit is not None and kept.is_dir():
            yield Candidate(current, limit, kept, digest)
        for step, path in checkpoints_of(workspace, current):
            if limit is not None and step > limit:
                continue
            yield Candidate(current, step, path, digest if step == limit else None)
        path = attempt_folder(workspace, current) / "parent.json"
        if not path.exists():  # it ended before it got here, so it made no history
            current -= 1
            continue
        parent = json.loads(path.read_text())
        if parent.get("attempt") is None:
            return
        heir, current = current, int(parent["attempt"])
        limit, digest = int(parent["step"]), parent["manifest"]


def _where_it_lies(candidate: Candidate) -> Path:
    return candidate.path


def newest_verified(
    workspace: Path,
    attempt: int,
    suspect: Collection[tuple[int, int]] = (),
    hold: Callable[[Candidate], Path] = _where_it_lies,
) -> Parent | None:
    """The checkpoint that ``attempt`` has to start from; None: there never was one.

    ``hold`` puts a checkpoint where nobody removes it before it is read, which takes minutes;
    returns that place.

    ``suspect`` are pairs of attempt and step: what that attempt and those before it saved after so
    many steps may hold the harm that ended it, so older ones go first, and among the suspect ones
    the oldest. Raises ``NoValidCheckpoint`` when there are some and none is whole: starting again
    from nothing is then the user's decision. Raises ``FileNotFoundError`` where a checkpoint went
    while it was looked at: its owner, believed dead, has saved a newer one. Raises the volume's
    ``OSError`` where none is whole because of it: another attempt may read what this one cannot.
    """
    faults: list[str] = []
    unread: BaseException | None = None
    for candidate in _by_trust(history(workspace, attempt), suspect):
        step, ancestor = candidate.step, candidate.attempt
        try:
            path = hold(candidate)
            digest = manifest.verify(path)
            if candidate.digest not in (None, digest):
                raise CorruptCheckpointError("it is not the one that a later attempt went on from")
        except (CorruptCheckpointError, FileNotFoundError) as error:
            if not os.path.lexists(candidate.path):
                raise FileNotFoundError(f"step {step} of attempt {ancestor} went") from error
            log.warning("skipping checkpoint step %d of attempt %d: %s", step, ancestor, error)
            if isinstance(error, UnreadableCheckpointError):
                unread = error.__cause__
            faults.append(f"step {step} of attempt {ancestor}: {error}")
            continue
        return Parent(ancestor, step, digest, path, tuple(faults))
    if unread is not None:
        raise unread
    if faults:
        raise NoValidCheckpoint(
            f"no checkpoint passes verification: {'; '.join(faults)}",
            hint="delete attempts/ on the job's volume to start over",
        )
    return None


def _by_trust(
    candidates: Iterable[Candidate], suspect: Collection[tuple[int, int]]
) -> Iterator[Candidate]:
    """The checkpoints of the history in the order to try them."""
    doubtful: list[Candidate] = []
    for candidate in candidates:
        if any(candidate.attempt <= by and candidate.step >= since for by, since in suspect):
            doubtful.append(candidate)
        else:
            yield candidate
    yield from reversed(doubtful)


def parent_folder(workspace: Path, attempt: int) -> Path:
    """Where ``attempt`` keeps the checkpoint that it went on from."""
    return attempt_folder(workspace, attempt) / "parent"


def keep(workspace: Path, attempt: int, checkpoint: Path) -> Path:
    """Link the files of the checkpoint that may become the parent into the folder of ``attempt``:
    they take no space, and stay. Returns where they lie now.

    Raises ``FileNotFoundError`` where a file is not there, ``CorruptCheckpointError`` without a
    manifest: its owner may have removed it meanwhile.
    """
    folder = parent_folder(workspace, attempt)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that ended before it claimed its parent
    temporary = folder.with_name(f".parent.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in (*manifest.read(checkpoint)["files"], manifest.NAME):
        os.link(checkpoint / name, temporary / name)
    sync(temporary)
    temporary.rename(folder)
    return folder


def successor(workspace: Path, attempt: int) -> int | None:
    """A later attempt that has begun: this one is believed dead, and nobody reads what it saves."""
    later = [
        int(path.parent.name)
        for path in workspace.glob("attempts/*/parent.json")
        if path.parent.name.isdigit()
    ]
    return max((number for number in later if number > attempt), default=None)


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
