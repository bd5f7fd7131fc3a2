"""Saving and loading the training state, all ranks together.

A checkpoint appears by one rename, after every file is durable and listed in the manifest with its
hash; what a reader finds under ``step-<N>`` is whole. If one rank cannot write, all ranks learn it
in the next exchange and stop with the same error, instead of waiting for each other.

A save may go on beside the training: `begin` copies the state, a thread of each rank writes its
copy, and once the ranks' votes say that all have, `land` publishes. The votes travel with the sums
that the ranks exchange after each step anyway, so no collective ever runs in a second thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import lineage, manifest, shards, tensor_file
from finetune_trainer.checkpoint_folder import CheckpointFolder
from finetune_trainer.engine import Engine
from finetune_trainer.errors import DiskFull, NoValidCheckpoint, Preempted, StageError
from finetune_trainer.flight import Flight
from finetune_trainer.gang import Gang
from finetune_trainer.lineage import Candidate, Parent
from finetune_trainer.snapshot import Snapshot
from finetune_trainer.together import together

FORMAT = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A checkpoint that is on the volume, whole."""

    step: int
    bytes: int

    def content(self) -> dict[str, Any]:
        return {"step": self.step, "verified": True, "bytes": self.bytes}


@dataclass(frozen=True)
class _Draft:
    """A checkpoint that nobody can see yet."""

    step: int
    content: dict[str, Any]
    """The manifest without the files."""
    protect: frozenset[int]
    size: int
    """Bytes that the shards of all ranks will take."""


@dataclass(frozen=True)
class _Aloft:
    """A save in flight."""

    draft: _Draft
    content: list[memoryview]
    """This rank's shard."""
    flight: Flight

    @classmethod
    def begun(cls, draft: _Draft, content: list[memoryview], path: Path) -> _Aloft:
        return cls(draft, content, Flight(lambda stop: tensor_file.write(path, content, stop)))


class Checkpoints:
    """The checkpoints of one attempt. Methods are collective unless they say otherwise."""

    def __init__(
        self,
        workspace: Path,
        attempt: int,
        gang: Gang,
        *,
        keep: int,
        identity: dict[str, Any],
        suspect: Collection[tuple[int, int]] = (),
        gives_up_oldest: bool = True,
    ) -> None:
        """``identity`` says what the state belongs to (digests of model and data, method…): a
        checkpoint with another one is refused. ``suspect``: see ``lineage.newest_verified``.
        ``gives_up_oldest``: where the volume is full, old checkpoints make room for the new one.
        """
        self._workspace = workspace
        self._attempt = attempt
        self._folder = CheckpointFolder(workspace, attempt, keep=keep)
        self._gang = gang
        self._identity = identity
        self._snapshot = Snapshot()
        self._flight: _Aloft | None = None
        self._suspect = suspect
        self._gives_up_oldest = gives_up_oldest
        self.published: list[Published] = []

    def save(
        self, engine: Engine, step: int, state: dict[str, Any], *, protect: Collection[int] = ()
    ) -> Published:
        """Publish the state after ``step`` steps. Steps in ``protect`` survive the retention.

        ``state`` is the loop's own, as JSON. Where the volume is full, the oldest checkpoints make
        room, but never the newest one nor those in ``protect``. Raises ``DiskFull`` on every rank
        if that does not help, before anything is written if it can be foreseen.
        """
        partitions = engine.partitions()
        draft = self._drafted(engine, step, state, shards.size(partitions), protect)
        path = self._shard_path(step)
        while True:
            try:
                files = self._together(lambda: shards.write(path, partitions))
                published = self._publish(draft, files)
                break
            except DiskFull as full:
                self._start_over(draft, protect, full)
        self._folder.tidy()
        return published

    def begin(
        self, engine: Engine, step: int, state: dict[str, Any], *, protect: Collection[int] = ()
    ) -> None:
        """As `save`, but return as soon as the state is copied; `land` publishes it.

        Keeps a copy of this rank's shard in host memory from the first call on. Raises as `save`
        for lack of space; what the writing thread meets is raised by `land`, `finish` and
        `abandon`. There must be no save in flight.
        """
        if self.in_flight:
            raise StageError("a checkpoint was begun before the last one was done")
        partitions = engine.partitions()
        tensors = shards.stretches(partitions)
        draft = self._drafted(engine, step, state, shards.size(partitions), protect)
        content: list[memoryview] = []
        self._together(lambda: content.extend(self._snapshot.take(tensors)))
        self._flight = _Aloft.begun(draft, content, self._shard_path(step))

    @property
    def in_flight(self) -> bool:
        return self._flight is not None

    @property
    def vote(self) -> float:
        """This rank's part of the sum that `decided` judges.

        1: its shard is written; the number of ranks: it cannot be, and all should know. Else 0.
        """
        if self._flight is None or not self._flight.flight.over:
            return 0.0
        return float(self._gang.place.world_size) if self._flight.flight.failed else 1.0

    def decided(self, votes: float) -> bool:
        """Whether `land` has something to do, by the sum of all ranks' votes. Not collective."""
        return self.in_flight and votes >= self._gang.place.world_size

    def land(self, *, protect: Collection[int] = ()) -> Published | None:
        """Publish the save in flight if all ranks have written; else forget it.

        Where the volume was full and an older checkpoint can make room, it is in flight once more
        instead. Raises the error of a rank that cannot write, on all ranks.
        """
        if self._flight is None:
            return None
        aloft, self._flight = self._flight, None
        try:
            files = self._together(aloft.flight.outcome)
            return None if None in files else self._publish(aloft.draft, files, protect)
        except DiskFull as full:
            aloft.flight.stop()
            self._start_over(aloft.draft, protect, full)
            path = self._shard_path(aloft.draft.step)
            self._flight = _Aloft.begun(aloft.draft, aloft.content, path)
            return None

    def finish(self, *, protect: Collection[int] = ()) -> Published | None:
        """Wait for the save in flight, then `land`; nothing is left to be done after it."""
        published = None
        while self._flight is not None:
            self._flight.flight.wait()
            published = self.land(protect=protect)
        self._folder.tidy()
        return published

    def abandon(self, *, protect: Collection[int] = ()) -> Published | None:
        """Stop the save in flight, then `land`: what came too late for that is published."""
        if self._flight is not None:
            self._flight.flight.stop()
        published = self.land(protect=protect)
        if self._flight is not None:  # it was to be tried again
            self._flight.flight.stop()
            self._flight = None
        return published

    def choose_parent(self) -> Parent | None:
        """Rank 0 looks for the newest whole checkpoint and fences the chain; all get the answer."""

        def choose() -> Parent | None:
            if not self._gang.is_first:
                return None
            self._give_way()
            parent = self._newest_kept()
            self._claim(parent)
            self._folder.prepare()
            return parent

        chosen: Parent | None = self._together(choose)[0]
        if chosen is not None:
            files = manifest.read(chosen.path)["files"].values()
            self.published = [Published(chosen.step, sum(int(facts["size"]) for facts in files))]
        return chosen

    def _claim(self, parent: Parent | None) -> None:
        try:
            lineage.claim(self._workspace, self._attempt, parent)
        except FileExistsError as error:
            raise Preempted(
                f"an earlier gang of attempt {self._attempt} has been here, so this one would mix "
                "its checkpoints with that one's",
                hint="its Job was suspended and admitted again before the operator saw it",
            ) from error

    def _newest_kept(self) -> Parent | None:
        """The newest whole checkpoint of the history, in a place where only we remove it."""
        while True:
            try:
                return lineage.newest_verified(
                    self._workspace, self._attempt, self._suspect, self._held
                )
            except FileNotFoundError as error:
                log.warning("looking once more for the newest checkpoint: %s", error)

    def _held(self, candidate: Candidate) -> Path:
        """Kept before it is verified: a gang that was believed dead may save, and remove what it
        saved before, faster than that is read."""
        try:
            return lineage.keep(self._workspace, self._attempt, candidate.path)
        except FileNotFoundError:
            raise
        except OSError as error:  # a file system without links to directories of others
            log.warning("cannot keep the checkpoint of step %d: %s", candidate.step, error)
            return candidate.path

    def _give_way(self) -> None:
        """End where a later attempt has begun: it was believed that this one is dead."""
        later = lineage.successor(self._workspace, self._attempt)
        if later is not None:
            raise Preempted(
                f"attempt {later} has taken over, so what attempt {self._attempt} saves would "
                "never be read",
                hint="its node did not answer the cluster for a while",
            )

    def restore(self, engine: Engine, step: int) -> None:
        """Bring weights and optimizer back to where they were after an earlier step.

        Raises ``NoValidCheckpoint`` where that step's checkpoint is not there or not whole.
        """

        def find() -> Parent | None:
            if not self._gang.is_first:
                return None
            for candidate in lineage.history(self._workspace, self._attempt + 1):
                if candidate.step != step:
                    continue
                try:
                    digest = manifest.verify(candidate.path)
                except manifest.CorruptCheckpointError as error:
                    log.warning(
                        "checkpoint step %d of attempt %d: %s", step, candidate.attempt, error
                    )
                    continue
                return Parent(candidate.attempt, step, digest, candidate.path)
            raise NoValidCheckpoint(
                f"the checkpoint of step {step}, which had the lowest held-out loss, is not there "
                "or not whole",
                hint="spec.evaluation.overfitting.action: Warn keeps the last weights",
            )

        found: Parent = self._together(find)[0]
        self.load(engine, found)

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

    def _drafted(
        self, engine: Engine, step: int, state: dict[str, Any], size: int, protect: Collection[int]
    ) -> _Draft:
        """Make room for ``size`` bytes of each rank, and note what the manifest will say."""
        place, needed = self._gang.place, size * self._gang.place.world_size
        self._together(self._give_way)
        self._open(step)
        while True:
            try:
                self._together(lambda: self._folder.require_space(needed))
                break
            except DiskFull as full:
                self._give_up_oldest(needed, protect, full)
        content = {
            "format": FORMAT,
            "step": step,
            "attempt": self._attempt,
            "worldSize": place.world_size,
            "zeroStage": engine.stage,
            "precision": engine.precision,
            "identity": self._identity,
            "scaler": engine.scaler_state(),
            "state": state,
            "at": round(time.time(), 3),
        }
        return _Draft(step, content, frozenset(protect), needed)

    def _open(self, step: int) -> None:
        self._together(lambda: self._folder.open(step) if self._gang.is_first else None)

    def _start_over(self, draft: _Draft, protect: Collection[int], full: DiskFull) -> None:
        """The shards did not fit although there seemed to be room: quotas do not show, and others
        write too. Make more of it, and begin with an empty folder."""
        self._give_up_oldest(draft.size, {*draft.protect, *protect}, full)
        self._open(draft.step)

    def _give_up_oldest(self, needed: int, protect: Collection[int], full: DiskFull) -> None:
        """Let the oldest checkpoint go. Raises ``full`` where none may, or all would not do."""

        def give_up() -> int | None:
            wanted = self._gives_up_oldest and self._gang.is_first
            return self._folder.give_up_oldest(needed, protect) if wanted else None

        gone: int | None = self._together(give_up)[0]
        if gone is None:
            if self._gang.is_first:  # all have stopped writing; on a full disk every byte counts
                with contextlib.suppress(OSError):
                    self._folder.drop_drafts()
            raise full
        self.published = [kept for kept in self.published if kept.step != gone]

    def _publish(
        self, draft: _Draft, files: list[dict[str, Any]], protect: Collection[int] = ()
    ) -> Published:
        """``files``: size and hash of each rank's shard."""

        def publish() -> None:
            if self._gang.is_first:
                listed = {_shard(rank): facts for rank, facts in enumerate(files)}
                self._folder.publish(draft.step, {**draft.content, "files": listed})

        def retire() -> None:
            if self._gang.is_first:
                gone = self._folder.retire({*draft.protect, *protect})
                self.published = [kept for kept in self.published if kept.step not in gone]

        self._together(publish)
        done = Published(draft.step, sum(int(facts["size"]) for facts in files))
        self.published.append(done)
        self._together(retire)
        return done

    def _shard_path(self, step: int) -> Path:
        return self._folder.temporary(step) / _shard(self._gang.place.rank)

    def _together(self, action: Callable[[], Any]) -> list[Any]:
        def ours() -> Any:
            try:
                return action()
            except FileNotFoundError:  # a successor clears away what it finds half written
                self._give_way()
                raise

        return together(self._gang, ours)


def _shard(rank: int) -> str:
    return f"rank-{rank}.safetensors"
