"""Ranks that save while they train, with writers that a test holds, slows down or breaks."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unit.trainer.train.jobs import Job
from unit.trainer.train.loops import assembled
from unit.trainer.train.stretches import pieces

from finetune_trainer import manifest, shards, tensor_file
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.checkpoint_folder import CheckpointFolder
from finetune_trainer.errors import Preempted, failure_class
from finetune_trainer.loop import Loop
from finetune_trainer.rendezvous import Place

SLOW_SECONDS = 0.3
STATES = ("master", "exp_avg", "exp_avg_sq")

_write = tensor_file.write


def hold(step: int) -> threading.Event:
    """The writer of that step's shard waits for this event, or until it is told to stop."""
    opened = threading.Event()

    def write(path: Path, content: Any, stop: threading.Event | None = None) -> dict[str, Any]:
        if stop is not None and path.parent.name == f"step-{step}.tmp":
            while not opened.wait(0.01):
                if stop.is_set():
                    raise tensor_file.Stopped
        return _write(path, content, stop)

    tensor_file.write = write
    return opened


class OnStep:
    """Never stops; calls ``action`` once when the loop has done ``step`` steps."""

    def __init__(self, loop: Loop, step: int, action: Callable[[], None]) -> None:
        self._loop, self._step, self._action, self._done = loop, step, action, False

    @property
    def agreed(self) -> bool:
        if self._loop.state.step >= self._step and not self._done:
            self._done = True
            self._action()
        return False


def change_meanwhile(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Begin to save after 3 steps, write after 5. Brings home the state of both."""
    loop = assembled(job, place, workspace)
    gate = hold(3)
    told = shards.expected_size(loop.engine.partitions(), loop.engine.base_optimizer)
    for step in range(3):
        loop.train_window(loop.windows[step], 0.01)
    loop.checkpoints.begin(loop.engine, 3, {})
    saved = {what: pieces(loop.engine, what) for what in STATES}
    for step in (3, 4):
        loop.train_window(loop.windows[step], 0.01)
    gate.set()
    published = loop.checkpoints.finish()
    assert published is not None and published.step == 3
    return {
        "saved": saved,
        "later": {what: pieces(loop.engine, what) for what in STATES},
        "sizes": (told, shards.size(loop.engine.partitions())),
    }


def tell_meanwhile(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Train with the first save held by the last rank from step 4 until step 7."""
    loop = assembled(job, place, workspace)
    gate, told = hold(4), []
    if place.rank < place.world_size - 1:
        gate.set()

    def look() -> None:
        progress = json.loads(loop.reporter._progress.render())
        told.extend(
            [[entry["step"] for entry in progress.get("checkpoints", [])], progress.get("phase")]
        )
        gate.set()

    loop.shutdown = OnStep(loop, 7, look)  # type: ignore[assignment]
    loop.run()
    told.append([entry.step for entry in loop.checkpoints.published])
    return {"told": told, "seconds": loop.reporter.account.content()["seconds"]}


def die(place: Place, job: Job, workspace: Path, step: int, when: str) -> dict[str, Any]:
    """Leave without a word while the checkpoint of ``step`` is written.

    ``when``: "shard": the last rank has not written its own; "manifest": all have, and there is no
    manifest; "rename": there is one.
    """
    loop = assembled(job, place, workspace)
    written = manifest.write

    def write(folder: Path, content: dict[str, Any]) -> str:
        if content["step"] == step:
            if when == "rename":
                written(folder, content)
            raise KeyboardInterrupt
        return written(folder, content)

    def end() -> None:
        time.sleep(0.2)  # for the shards of the other ranks
        raise KeyboardInterrupt

    if when != "shard":
        manifest.write = write
    else:
        loop.shutdown = OnStep(loop, step + 1, end)  # type: ignore[assignment]
        if place.rank == place.world_size - 1:
            hold(step)
    try:
        loop.run()
    except BaseException as error:
        return {"error": type(error).__name__, "step": loop.state.step}
    return {"error": None}


def fail(place: Place, job: Job, workspace: Path, step: int, number: int) -> dict[str, Any]:
    """Train where the last rank cannot write its shard of ``step`` and the others never end."""
    loop = assembled(job, place, workspace)
    if place.rank < place.world_size - 1:
        hold(step)
    else:

        def write(path: Path, content: Any, stop: threading.Event) -> dict[str, Any]:
            if path.parent.name == f"step-{step}.tmp":
                if number != errno.ENOSPC:
                    raise OSError(number, os.strerror(number), str(path))
                path.symlink_to("/dev/full")
            return _write(path, content, stop)

        tensor_file.write = write

    def too_late() -> None:
        raise RuntimeError("training goes on")

    loop.shutdown = OnStep(loop, step + 2, too_late)  # type: ignore[assignment]
    try:
        loop.run()
    except Exception as error:
        return {
            "error": type(error).__name__,
            "class": failure_class(error).name,
            "message": str(error),
            "step": loop.state.step,
        }
    return {"error": None}


def stop_meanwhile(place: Place, job: Job, workspace: Path, written: bool) -> dict[str, Any]:
    """Be asked to stop after step 6, while the checkpoint of step 4 is in flight.

    ``written``: all of it is, and no rank has been told so.
    """
    loop = assembled(job, place, workspace)
    if written:
        Checkpoints.vote = property(lambda _: 0.0)  # type: ignore[assignment]
    elif place.rank == 0:
        hold(4)

    class Asked:
        @property
        def agreed(self) -> bool:
            flight = loop.checkpoints._flight
            if written and flight is not None:
                flight.flight.wait()
            return place.rank == place.world_size - 1 and loop.state.step == 5

    loop.shutdown = Asked()  # type: ignore[assignment]
    try:
        loop.run()
    except Preempted as error:
        return {"message": str(error), "step": loop.state.step}
    return {"message": None}


def save_slowly(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Train with shards that are written only when training waits for them.

    Brings home who wrote when.
    """
    loop = assembled(job, place, workspace)
    times: list[tuple[float, float]] = []

    def write(path: Path, content: Any, stop: threading.Event) -> dict[str, Any]:
        began = time.monotonic()
        for phase in ("train", "checkpoint"):  # it goes on, then it waits
            while loop.reporter.heartbeat.phase != phase:
                time.sleep(0.001)
        time.sleep(SLOW_SECONDS)
        facts = _write(path, content, stop)
        times.append((began, time.monotonic()))
        return facts

    tensor_file.write = write
    loop.run()
    return {
        "times": times,
        "published": [entry.step for entry in loop.checkpoints.published],
        "stall": loop.reporter.account.content()["seconds"]["checkpoint"],
    }


def train_on_a_full_disk(place: Place, job: Job, workspace: Path, foreseen: bool) -> dict[str, Any]:
    """Train to the end. ``foreseen``: the space is looked at before; else a write meets the end
    of it, as on a volume with a quota."""
    if not foreseen:
        CheckpointFolder.require_space = lambda *_: None  # type: ignore[method-assign]
    loop = assembled(job, place, workspace)
    try:
        loop.run()
    except Exception as error:
        return {"class": failure_class(error).name, "message": str(error)}
    newest = loop.checkpoints.published
    return {
        "step": loop.state.step,
        "published": [entry.step for entry in newest],
        "bytes": newest[-1].bytes if newest else 0,
    }
