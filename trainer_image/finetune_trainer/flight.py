"""A shard on its way to the disk, written by a thread beside the training."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from finetune_trainer.tensor_file import Stopped

NICENESS = 10
"""Of the writing thread: training computes first, hashes take what is left."""

Facts = dict[str, Any]


class Flight:
    """Runs ``write`` in a thread of its own; it gets the event that tells it to stop.

    The thread takes part in no exchange between ranks: what became of it, the training thread
    asks here and agrees on with the others.
    """

    def __init__(self, write: Callable[[threading.Event], Facts]) -> None:
        self._write = write
        self._stop = threading.Event()
        self._facts: Facts | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def failed(self) -> bool:
        return self.over and self._error is not None

    def wait(self) -> None:
        self._thread.join()

    def stop(self) -> None:
        """Give up what is not written yet, and wait for the end of it."""
        self._stop.set()
        self._thread.join()

    def outcome(self) -> Facts | None:
        """What was written; None: nothing, or not yet. Raises the error of the thread."""
        if self._error is not None:
            raise self._error
        return self._facts

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self._facts = self._write(self._stop)
        except Stopped:
            return
        except Exception as error:
            self._error = error
