"""When the training state is saved, and what is told of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from finetune_trainer.checkpoint import Checkpoints, Published
from finetune_trainer.engine import Engine
from finetune_trainer.reporter import Reporter
from finetune_trainer.state import TrainState

log = logging.getLogger(__name__)


class Saver:
    """One attempt's saves. All methods are collective and called between two steps.

    At most one save is in flight. One that is due meanwhile waits for it: who asks for a checkpoint
    every N steps has been told what a failure costs, and skipping one would double that.
    """

    def __init__(
        self, engine: Engine, checkpoints: Checkpoints, reporter: Reporter, *, asynchronous: bool
    ) -> None:
        self._engine = engine
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._asynchronous = asynchronous
        self._began = 0.0
        self._stood = 0.0
        """Seconds that training has stood still for the save in flight."""

    @property
    def vote(self) -> float:
        """To be added up over the ranks, for `settle`. Asks nobody."""
        return self._checkpoints.vote

    def save(self, state: TrainState) -> None:
        """Save the state as it is now; beside the training if that is wanted."""
        if not self._asynchronous:
            self.save_now(state)
            return
        if self._checkpoints.in_flight:
            self.finish(state)
        self._began, self._stood = time.monotonic(), 0.0
        with self._standstill(state):
            self._checkpoints.begin(self._engine, state.step, state.content(), protect=_best(state))
        log.info("step %d: state copied in %.2f s, being written", state.step, self._stood)

    def settle(self, votes: float, state: TrainState) -> None:
        """Publish the save in flight once all ranks have written it, or raise what one met."""
        if self._checkpoints.decided(votes):
            with self._standstill(state):
                published = self._checkpoints.land(protect=_best(state))
            self._told(published)

    def save_now(self, state: TrainState) -> None:
        """Save while training stands still. A save in flight that is not all written is dropped.

        So the whole grace period of a stop belongs to the newest state.
        """
        if self._checkpoints.in_flight:
            with self._standstill(state):
                published = self._checkpoints.abandon(protect=_best(state))
            if published is None:
                log.info("the checkpoint in flight is dropped for a newer one")
            self._told(published)
        self._began, self._stood = time.monotonic(), 0.0
        with self._standstill(state):
            saved = self._checkpoints.save(
                self._engine, state.step, state.content(), protect=_best(state)
            )
        self._told(saved)

    def finish(self, state: TrainState) -> None:
        """Wait for the save in flight, if there is one, and for the removal of old ones."""
        with self._standstill(state):
            published = self._checkpoints.finish(protect=_best(state))
        self._told(published)

    def _told(self, published: Published | None) -> None:
        if published is None:
            return
        seconds = time.monotonic() - self._began
        self._reporter.saved(
            published, self._checkpoints.published, seconds=seconds, stood_still=self._stood
        )
        log.info(
            "checkpoint of step %d: %d bytes in %.2f s, training stood still for %.2f s",
            published.step,
            published.bytes,
            seconds,
            self._stood,
        )

    @contextlib.contextmanager
    def _standstill(self, state: TrainState) -> Iterator[None]:
        before, began = self._reporter.heartbeat.phase, time.monotonic()
        self._reporter.phase("checkpoint", state.step)
        yield
        self._stood += time.monotonic() - began
        self._reporter.phase(before, state.step)


def _best(state: TrainState) -> set[int]:
    """The step whose checkpoint outlives newer ones."""
    return {state.best["step"]} if state.best else set()
