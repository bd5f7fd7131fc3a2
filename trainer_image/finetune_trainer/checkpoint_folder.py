"""The folder of an attempt's checkpoints: room, appearance by rename, retention. Rank 0's work."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from finetune_trainer import lineage, manifest
from finetune_trainer.durable import sync
from finetune_trainer.errors import DiskFull

SPACE_FACTOR = 1.2
"""Free space that must be there, as a multiple of what the checkpoint will take."""

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
        """Remove what attempts left half written, which may be as large as a checkpoint."""
        for pattern in ("checkpoints/*.tmp", "checkpoints/.trash-*", ".trash-*"):
            for leftover in self._workspace.glob(f"attempts/*/{pattern}"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._path.mkdir(parents=True, exist_ok=True)

    def open(self, step: int) -> None:
        """An empty temporary folder, the only one: what was not published is gone."""
        self.tidy()
        for leftover in self._path.glob("*.tmp"):
            shutil.rmtree(leftover)
        self.temporary(step).mkdir(parents=True)

    def require_space(self, needed: int) -> None:
        """Raise ``DiskFull`` where ``needed`` bytes and some more do not fit. For every rank."""
        free, total = shutil.disk_usage(self._workspace).free, needed * SPACE_FACTOR
        if free < total:
            raise DiskFull(
                f"a checkpoint takes about {total / 1e6:.0f} MB, the volume has "
                f"{free / 1e6:.0f} MB left",
                hint="enlarge the claim of spec.storage, or free space on it",
            )

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
        # The history of the next attempt is all that anybody may go on from.
        history = [(c.step, c.path) for c in lineage.history(self._workspace, self._attempt + 1)]
        newest = sorted({step for step, _ in history}, reverse=True)[: self._keep]
        gone, trash = set(), []
        for step, path in history:
            if step in protect or step in newest:
                continue
            try:
                trash.append(_hidden(path))
            except OSError as error:  # what is left over harms nobody
                log.warning("cannot remove the checkpoint of step %d: %s", step, error)
            gone.add(step)
        if trash:
            self.tidy()
            self._removal = threading.Thread(target=_remove, args=(trash,), daemon=True)
            self._removal.start()
        return gone

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


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
