"""Saving and loading the training state, all ranks together.

A checkpoint appears by one rename, after every file is durable and listed in the manifest with its
hash; what a reader finds under ``step-<N>`` is whole. If one rank cannot write, all ranks learn it
in the next exchange and stop with the same error, instead of waiting for each other.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import lineage, manifest, shards
from finetune_trainer.durable import sync
from finetune_trainer.engine import Engine
from finetune_trainer.errors import (
    DiskFull,
    NoValidCheckpoint,
    Preempted,
    StageError,
    failure_class,
)
from finetune_trainer.gang import Gang
from finetune_trainer.lineage import Parent

FORMAT = 1
SPACE_FACTOR = 1.2
"""Free space that must be there, as a multiple of what the checkpoint will take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A checkpoint that is on the volume, whole."""

    step: int
    bytes: int

    def content(self) -> dict[str, Any]:
        return {"step": self.step, "verified": True, "bytes": self.bytes}


class Checkpoints:
    """The checkpoints of one attempt. `save` and `load` are collective."""

    def __init__(
        self, workspace: Path, attempt: int, gang: Gang, *, keep: int, identity: dict[str, Any]
    ) -> None:
        """``identity`` says what the state belongs to (digests of model and data, method…): a
        checkpoint with another one is refused."""
        self._workspace = workspace
        self._attempt = attempt
        self._folder = lineage.attempt_folder(workspace, attempt) / "checkpoints"
        self._gang = gang
        self._keep = keep
        self._identity = identity
        self.published: list[Published] = []

    def save(
        self, engine: Engine, step: int, state: dict[str, Any], *, protect: Collection[int] = ()
    ) -> Published:
        """Publish the state after ``step`` steps. Steps in ``protect`` survive the retention.

        ``state`` is the loop's own, as JSON. Raises ``DiskFull`` before anything is written if the
        space does not suffice, and on every rank if one of them runs out.
        """
        partitions = engine.partitions()
        temporary = self._folder / f"step-{step}.tmp"
        self._together(self._give_way)
        self._together(lambda: self._make_room(temporary, shards.size(partitions)))
        name = f"rank-{self._gang.place.rank}.safetensors"
        files = self._together(lambda: _write_shard(temporary / name, partitions))

        def publish() -> int:
            if not self._gang.is_first:
                return 0
            listed = {name: facts for shard in files for name, facts in shard.items()}
            content = {
                "format": FORMAT,
                "step": step,
                "attempt": self._attempt,
                "worldSize": self._gang.place.world_size,
                "zeroStage": engine.stage,
                "precision": engine.precision,
                "identity": self._identity,
                "scaler": engine.scaler_state(),
                "state": state,
                "files": listed,
                "at": round(time.time(), 3),
            }
            manifest.write(temporary, content)
            final = self._folder / f"step-{step}"
            if final.exists():  # left by a run of the same attempt that ended before its parent
                _discard(final)
            temporary.rename(final)
            sync(self._folder)
            return sum(int(facts["size"]) for facts in listed.values())

        done = Published(step, self._together(publish)[0])
        self.published.append(done)
        self._together(lambda: self._retire(protect))
        return done

    def choose_parent(self) -> Parent | None:
        """Rank 0 looks for the newest whole checkpoint and fences the chain; all get the answer."""

        def choose() -> Parent | None:
            if not self._gang.is_first:
                return None
            self._give_way()
            parent = self._newest_kept()
            lineage.claim(self._workspace, self._attempt, parent)
            self._folder.mkdir(parents=True, exist_ok=True)
            return parent

        chosen: Parent | None = self._together(choose)[0]
        if chosen is not None:
            files = manifest.read(chosen.path)["files"].values()
            self.published = [Published(chosen.step, sum(int(facts["size"]) for facts in files))]
        return chosen

    def _newest_kept(self) -> Parent | None:
        """The newest whole checkpoint of the history, in a place where only we remove it."""
        while True:
            parent = lineage.newest_verified(self._workspace, self._attempt)
            if parent is None:
                return None
            try:
                return lineage.keep(self._workspace, self._attempt, parent)
            except FileNotFoundError as error:
                log.warning("the checkpoint of step %d went meanwhile: %s", parent.step, error)
            except OSError as error:  # a file system without links to directories of others
                log.warning("cannot keep the checkpoint of step %d: %s", parent.step, error)
                return parent

    def _give_way(self) -> None:
        """End where a later attempt has begun: it was believed that this one is dead."""
        later = lineage.successor(self._workspace, self._attempt) if self._gang.is_first else None
        if later is not None:
            raise Preempted(
                f"attempt {later} has taken over, so what attempt {self._attempt} saves would "
                "never be read",
                hint="its node did not answer the cluster for a while",
            )

    def load(self, engine: Engine, parent: Parent) -> dict[str, Any]:
        """Restore the engine. Returns the loop's own state as it was saved.

        Raises ``NoValidCheckpoint`` where the state belongs to another model, data set or method.
        """
        content = manifest.read(parent.path)
        differences = [
            f"{key} was {content['identity'].get(key)!r} and is {value!r}"
            for key, value in self._identity.items()
            if content["identity"].get(key) != value
        ]
        if differences:
            raise NoValidCheckpoint(
                f"checkpoint step {parent.step} of attempt {parent.attempt} does not belong to "
                f"this job: {'; '.join(differences)}"
            )
        shards.read([parent.path / name for name in content["files"]], engine.partitions())
        engine.masters_changed()
        engine.restore_scaler(content["scaler"])
        state: dict[str, Any] = content["state"]
        return state

    def _make_room(self, temporary: Path, needed: int) -> None:
        if self._gang.is_first:
            for leftover in self._folder.glob("*.tmp"):
                shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
        free = shutil.disk_usage(self._workspace).free
        total = needed * self._gang.place.world_size * SPACE_FACTOR
        if free < total:
            raise DiskFull(
                f"a checkpoint takes about {total / 1e6:.0f} MB, the volume has "
                f"{free / 1e6:.0f} MB left",
                hint="enlarge the claim of spec.storage, or free space on it",
            )

    def _retire(self, protect: Collection[int]) -> None:
        """Remove all but the newest ``keep`` checkpoints of the chain, and the protected ones."""
        if not self._gang.is_first:
            return
        # The history of the next attempt is all that anybody may go on from.
        history = [(c.step, c.path) for c in lineage.history(self._workspace, self._attempt + 1)]
        newest = sorted({step for step, _ in history}, reverse=True)[: self._keep]
        for step, path in history:
            if step in protect or step in newest:
                continue
            try:
                _discard(path)
            except OSError as error:  # what is left over harms nobody
                log.warning("cannot remove the checkpoint of step %d: %s", step, error)
            self.published = [kept for kept in self.published if kept.step != step]

    def _together(self, action: Any) -> list[Any]:
        """Do it on every rank and exchange the results; an error of one is an error of all."""
        try:
            mine: tuple[Any, Exception | None] = (action(), None)
        except Exception as error:
            mine = (None, error)
        results = self._gang.gather((mine[0], _portable(mine[1])))
        if mine[1] is not None:
            raise mine[1]
        for _, fault in results:
            if fault is not None:
                raise fault
        return [value for value, _ in results]


def _write_shard(path: Path, partitions: Any) -> dict[str, Any]:
    shards.write(path, partitions)
    return {path.name: manifest.fingerprint(path)}


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that nobody sees half of it."""
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _portable(error: Exception | None) -> StageError | None:
    """The error as another rank can raise it."""
    if error is None or isinstance(error, StageError):
        return error
    kind = DiskFull if failure_class(error) is DiskFull.failure else StageError
    return kind(f"the checkpoint cannot be written: {error}")
