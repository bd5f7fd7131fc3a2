"""One attempt of prepare or export, fenced against those before it.

Nobody can know whether a pod that was given up still runs: its node may only have lost its network.
So an attempt first writes down that it has begun. Then, for each folder that it will publish, it
takes the scratch folders of earlier attempts away by renaming them. A folder is published by
renaming it out of its scratch folder, and what it replaces is moved into that one first. So an
attempt that was replaced cannot publish, however long it slept between looking and renaming: one of
the paths that it renames is gone. What it makes after that is never published, because it looks
for later attempts before it publishes; and nobody removes the scratch folder of a later one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import uuid
from pathlib import Path
from typing import Literal

from finetune_trainer.durable import sync
from finetune_trainer.errors import Preempted

_MANIFEST = "manifest.json"
_NEW, _REPLACED = "new", "replaced"
_NUMBERED = re.compile(r"(\d+)-[0-9a-f]{8}")

log = logging.getLogger(__name__)

Stage = Literal["prepare", "export"]


class StageAttempt:
    """Attempt ``number`` of a stage. ``owner``: UID of the job, where others publish too; None:
    they do not."""

    def __init__(
        self,
        workspace: Path,
        stage: Stage,
        number: int = 0,
        owner: str | None = None,
    ) -> None:
        self.number = number
        self._stage, self._owner = stage, owner
        self._begun = workspace / "stages" / stage

    def begin(self) -> None:
        """Write down that this attempt has begun. Raises ``Preempted`` where a later one has."""
        self._begun.mkdir(parents=True, exist_ok=True)
        (self._begun / str(self.number)).touch()
        sync(self._begun)
        self.give_way()

    def replaced(self) -> Preempted | None:
        """The reason to end where a later attempt has begun: this one is believed dead."""
        try:
            begun = [int(path.name) for path in self._begun.iterdir() if path.name.isdigit()]
        except FileNotFoundError:
            return None
        later = max(begun, default=self.number)
        if later <= self.number:
            return None
        return Preempted(
            f"attempt {later} of {self._stage} has taken over from attempt {self.number}",
            hint="its node did not answer the cluster for a while",
        )

    def give_way(self) -> None:
        """Raises ``Preempted`` where a later attempt has begun."""
        if reason := self.replaced():
            raise reason

    def scratch(self, target: Path) -> Path:
        """An empty folder to make ``target`` in; no two runs ever work in the same one."""
        self.clear(target)
        private = target.with_name(f"{self._prefix(target)}{self.number}-{uuid.uuid4().hex[:8]}")
        (private / _NEW).mkdir(parents=True)
        return private / _NEW

    def clear(self, target: Path) -> None:
        """Take away what earlier attempts, and runs of this one, left beside ``target``. From now
        on they cannot publish it any more."""
        prefix = self._prefix(target)
        for left in target.parent.glob(f"{prefix}*"):
            numbered = _NUMBERED.fullmatch(left.name.removeprefix(prefix))
            if numbered and int(numbered[1]) > self.number:
                continue
            gone = target.with_name(f"{prefix}gone-{uuid.uuid4().hex[:8]}")
            with contextlib.suppress(FileNotFoundError):  # it was published, or is gone, by now
                left.rename(gone)
            self._tidy(gone, target)

    def publish(self, made: Path, target: Path, *, replace: bool = False) -> None:
        """Put ``made``, which ``scratch`` gave, in the place of ``target``, once it is on disk.

        What another job published there is moved aside, not deleted, unless ``replace`` says that
        it is the same. A crash leaves no ``target``, never a half one; the stage then repeats.
        Where a later attempt has begun, raises ``Preempted``, or ``FileNotFoundError`` if that came
        after the look, and changes nothing that others read.
        """
        for path in [*made.rglob("*"), made]:
            sync(path)
        self.give_way()
        private = made.parent
        with contextlib.suppress(FileNotFoundError):
            target.rename(private / _REPLACED)
        made.rename(target)
        sync(target.parent)
        if replace:
            shutil.rmtree(private / _REPLACED, ignore_errors=True)
        self._tidy(private, target)

    def discard(self, made: Path) -> None:
        """Remove a folder that ``scratch`` gave."""
        shutil.rmtree(made.parent, ignore_errors=True)

    def _prefix(self, target: Path) -> str:
        return f".{target.name}.{self._owner or 'tmp'}."

    def _tidy(self, private: Path, target: Path) -> None:
        """Remove a scratch folder, but for what belongs to another job."""
        replaced = private / _REPLACED
        others = self._owner is not None and replaced.exists()
        if others and (owner := _publisher(replaced)) != self._owner:
            aside = _free_name(target.with_name(f"{target.name}.replaced-{owner[:8]}"))
            log.warning("%s held another job's output; moved to %s", target, aside.name)
            replaced.rename(aside)
        shutil.rmtree(private, ignore_errors=True)


def _publisher(folder: Path) -> str:
    """UID of the job that published a folder."""
    try:
        return str(json.loads((folder / _MANIFEST).read_text())["job"]["uid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _free_name(path: Path) -> Path:
    candidates = [path, *(path.with_name(f"{path.name}-{n}") for n in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
