"""SIGTERM: stop together with a checkpoint, or at once when that cannot be.

A thread waits for the signal, because Python runs no handler while the main thread is inside a
collective. Asked to stop, it tells the other ranks through the store and waits for all of them to
acknowledge. If they do within ``AGREE_SECONDS``, the training thread saves at the end of the step
and the rank exits with 75. If one does not answer, it is dead: nobody may wait for it, and the rank
exits with 74 there and then.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

from finetune_trainer.errors import CollectiveTimeout, Preempted, StageError

AGREE_SECONDS = 5.0
POLL_SECONDS = 0.25

_STOP = "stop"

log = logging.getLogger(__name__)


class Store(Protocol):
    """The part of ``torch.distributed.Store`` that is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def check(self, keys: list[str], /) -> bool: ...


def block_signal() -> None:
    """Keep SIGTERM for the watching thread. Call first in the process, before other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


class Shutdown:
    """Watches for SIGTERM from its creation on; before `arm` the rank simply leaves with 75.

    ``leave`` ends the process at once with the code of the given error; it must not return.
    """

    def __init__(self, leave: Callable[[StageError], None]) -> None:
        self._leave = leave
        self._store: Store | None = None
        self._rank = 0
        self._world_size = 1
        self._agreed = threading.Event()
        self._asked = False
        """By a SIGTERM of its own; the other ranks' reach it through the store, often before."""
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="shutdown", daemon=True).start()

    @property
    def agreed(self) -> bool:
        """All ranks know that they have to stop; each saves at the end of its step."""
        return self._agreed.is_set()

    def arm(self, store: Store, rank: int, world_size: int) -> None:
        """From now on a stop is agreed on. ``store`` must be this thread's own connection."""
        with self._lock:
            self._store, self._rank, self._world_size = store, rank, world_size

    def disarm(self) -> None:
        """Training is over: there is nothing left to agree on or to save."""
        with self._lock:
            self._store = None
            self._agreed.set()

    def _watch(self) -> None:
        while True:
            received = signal.sigtimedwait({signal.SIGTERM}, POLL_SECONDS)
            with self._lock:
                store = self._store
                if store is None and self._agreed.is_set():
                    continue  # disarmed
            if received is not None:
                self._on_signal(store)
            elif store is not None and not self.agreed and self._told(store):
                self._agree(store)

    def _on_signal(self, store: Store | None) -> None:
        again, self._asked = self._asked, True
        if store is None:
            self._leave(Preempted("asked to stop before training began"))
        elif again:
            self._leave(Preempted("asked to stop a second time, before the checkpoint was saved"))
        elif not self.agreed:
            log.info("SIGTERM: asking the other ranks to stop after this step")
            self._agree(store)

    def _told(self, store: Store) -> bool:
        try:
            return store.check([_STOP])
        except Exception as error:  # rank 0 is gone; the next collective says so
            log.debug("the store does not answer: %s", error)
            return False

    def _agree(self, store: Store) -> None:
        keys = [f"{_STOP}/{rank}" for rank in range(self._world_size)]
        deadline = time.monotonic() + AGREE_SECONDS
        try:
            store.set(_STOP, "1")
            store.set(keys[self._rank], "1")
            while not store.check(keys):
                if time.monotonic() > deadline:
                    missing = [key for key in keys if not store.check([key])]
                    ranks = ", ".join(key.rpartition("/")[2] for key in missing)
                    raise CollectiveTimeout(
                        f"asked to stop, but rank {ranks} did not answer: no checkpoint"
                    )
                time.sleep(POLL_SECONDS / 5)
        except CollectiveTimeout as error:
            self._leave(error)
        except Exception as error:
            self._leave(CollectiveTimeout(f"asked to stop, but rank 0 is gone: {error}"))
        else:
            log.info("all ranks agreed to stop")
            self._agreed.set()
