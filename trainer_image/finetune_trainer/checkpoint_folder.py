"""The folder of an attempt's checkpoints: room, appearance by rename, retention. Rank 0's work."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from finetune_trainer import lineage, manifest
from finetune_trainer.durable import sync
from finetune_trainer.errors import DiskFull

SPACE_FACTOR = 1.2
"""Free space that must be there, as a multiple of what the checkpoint will take."""

FULL_HINT = "enlarge the claim of spec.storage, or free space on it"

log = logging.getLogger(__name__)


class CheckpointFolder:
    def __init__(self, workspace: Path, attempt: int, *, keep: int) -> None:
        """``keep``: how many checkpoints of the whole chain survive, besides protected ones."""
        self._workspace = workspace
        self._attempt = attempt
        self._path = lineage.attempt_folder(workspace, attempt) / "checkpoints"
        self._keep = keep
        self._removal: threading.Thread | None = None

    def temporary(self, step: int) -> Path:
        """Where the files of a checkpoint are written; no reader looks there."""
        return self._path / f"step-{step}.tmp"

    def prepare(self) -> None:
        """Remove what attempts left half written, which may be as large as a checkpoint, and what
        nobody can go on from any more. A later attempt may be at work already: nothing of it is
        touched. For the time after this attempt has claimed its parent."""
        for pattern in ("checkpoints/*.tmp", "checkpoints/.trash-*", ".trash-*"):
            for number in range(self._attempt + 1):
                folder = lineage.attempt_folder(self._workspace, number)
                for leftover in folder.glob(pattern):
                    shutil.rmtree(leftover, ignore_errors=True)
        self._path.mkdir(parents=True, exist_ok=True)
        self._remove_dead_branches()

    def _remove_dead_branches(self) -> None:
        """Checkpoints of earlier attempts outside the chain: damaged ones, those after a point that
        was gone back to, what a gang saved that was believed dead, and what an attempt kept to go
        on from that ended before its first own."""
        chain = {
            candidate.path for candidate in lineage.history(self._workspace, self._attempt + 1)
        }
        dead = []
        for number in range(self._attempt):
            folder = lineage.attempt_folder(self._workspace, number)
            published = [path for _, path in lineage.checkpoints_of(self._workspace, number)]
            for path in (*published, folder / "parent"):
                if path.is_dir() and path not in chain:
                    log.info("removing %s, which nobody can go on from", path)
                    with contextlib.suppress(OSError):  # what is left over harms nobody
                        dead.append(_hidden(path))
        self._remove_beside(dead)

    def open(self, step: int) -> None:
        """An empty temporary folder, the only one: what was not published is gone."""
        self.tidy()
        self.drop_drafts()
        self.temporary(step).mkdir(parents=True)

    def drop_drafts(self) -> None:
        """Remove what was not published."""
        for leftover in self._path.glob("*.tmp"):
            shutil.rmtree(leftover)

    def require_space(self, needed: int) -> None:
        """Raise ``DiskFull`` where ``needed`` bytes and some more do not fit. For every rank."""
        free, total = shutil.disk_usage(self._workspace).free, needed * SPACE_FACTOR
        if free < total:
            raise DiskFull(
                f"a checkpoint takes about {total / 1e6:.0f} MB, the volume has "
                f"{free / 1e6:.0f} MB left",
                hint=FULL_HINT,
            )

    def give_up_oldest(self, needed: int, protect: Collection[int]) -> int | None:
        """Remove the oldest checkpoint to make room for ``needed`` bytes. Returns its step.

        The newest one, which the next attempt would go on from, and those in ``protect`` stay. None
        where no other is left, or where all of them together would not make enough room: then
        nothing is removed.
        """
        by_step = self._history()
        spare = sorted(set(by_step) - {max(by_step, default=0)} - set(protect))
        free = shutil.disk_usage(self._workspace).free
        if free + sum(_size(by_step[step]) for step in spare) < needed * SPACE_FACTOR or not spare:
            return None
        step = spare[0]
        for path in by_step[step]:
            with contextlib.suppress(FileNotFoundError):  # somebody else has just removed it
                shutil.rmtree(_hidden(path), ignore_errors=True)
        log.warning("no space for the next checkpoint: that of step %d is removed", step)
        return step

    def publish(self, step: int, content: dict[str, Any]) -> None:
        """Let the checkpoint appear; all its files are durable. ``content``: its manifest."""
        temporary, final = self.temporary(step), self._path / f"step-{step}"
        manifest.write(temporary, content)
        if final.exists():  # left by a run of the same attempt that ended before its parent
            shutil.rmtree(_hidden(final), ignore_errors=True)
        temporary.rename(final)
        sync(self._path)

    def retire(self, protect: Collection[int]) -> set[int]:
        """Hide all but the newest checkpoints of the chain and the protected ones.

        Returns the steps that are gone. Their files are removed beside the training: that of many
        gigabytes takes seconds on some volumes. `tidy` waits for it.
        """
        by_step = self._history()
        newest = sorted(by_step, reverse=True)[: self._keep]
        gone, trash = set(), []
        for step in set(by_step) - set(protect) - set(newest):
            for path in by_step[step]:
                try:
                    trash.append(_hidden(path))
                except OSError as error:  # what is left over harms nobody
                    log.warning("cannot remove the checkpoint of step %d: %s", step, error)
            gone.add(step)
        self._remove_beside(trash)
        return gone

    def _remove_beside(self, trash: list[Path]) -> None:
        if trash:
            self.tidy()
            self._removal = threading.Thread(target=_remove, args=(trash,), daemon=True)
            self._removal.start()

    def _history(self) -> dict[int, list[Path]]:
        """All that anybody may go on from: that of the next attempt. Folders of each step."""
        found: dict[int, list[Path]] = {}
        for candidate in lineage.history(self._workspace, self._attempt + 1):
            found.setdefault(candidate.step, []).append(candidate.path)
        return found

    def tidy(self) -> None:
        """Wait until what `retire` gave up takes no space any more."""
        if self._removal is not None:
            self._removal.join()
            self._removal = None


def _hidden(folder: Path) -> Path:
    """Give a checkpoint another name at once, so that nobody sees half of it."""
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    return trash


def _size(folders: Iterable[Path]) -> int:
    """Bytes that go with them: a file that is linked into several counts once, one that is linked
    from elsewhere too does not."""
    files: list[os.stat_result] = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            files += [path.stat() for path in folder.iterdir()]
    links = Counter(file.st_ino for file in files)
    sizes = {file.st_ino: file.st_size for file in files if links[file.st_ino] == file.st_nlink}
    return sum(sizes.values())


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
