"""Stages that run side by side where they can: each starts when what it needs is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from quickstart.display import Display


class _CancelledError(Exception):
    """Another stage failed, so this one never began."""


@dataclass(frozen=True)
class Stage:
    """A stage in the queue; its ``future`` becomes what its work returned."""

    name: str
    future: Future[Any]


class Reporter:
    """Handed to a stage's work: says what it is doing."""

    def __init__(self, display: Display, name: str) -> None:
        self._display = display
        self._name = name

    def __call__(self, text: str, fraction: float | None = None) -> None:
        self._display.detail(self._name, text, fraction=fraction)

    def line(self, text: str) -> None:
        self._display.note(text)


Work = Callable[[Reporter], Any]


class Stages:
    """Runs stages on threads; they spend their time in child processes and on the network."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="stage")
        self._stages: list[Stage] = []
        self._stop = threading.Event()

    def add(self, name: str, work: Work, *, after: Sequence[Stage] = ()) -> Stage:
        """Queue a stage. ``work`` runs when all of ``after`` have succeeded."""
        self._display.add(name)
        stage = Stage(name, self._pool.submit(self._run, name, work, tuple(after)))
        self._stages.append(stage)
        return stage

    def wait(self) -> None:
        """Wait for all stages. Raises the error of the first that failed; others end early."""
        futures = [stage.future for stage in self._stages]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C: the caller ends the process
            self._abandon()
            raise
        errors = [error for future in finished if (error := future.exception())]
        if errors:
            self._abandon()
            raise next((e for e in errors if not isinstance(e, _CancelledError)), errors[0])
        self._pool.shutdown()

    def _abandon(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, name: str, work: Work, after: tuple[Stage, ...]) -> Any:
        for needed in after:
            if needed.future.exception() is not None:
                raise _CancelledError(needed.name)
        if self._stop.is_set():
            raise _CancelledError(name)
        self._display.start(name)
        try:
            result = work(Reporter(self._display, name))
        except Exception as error:
            self._display.failed(name, str(error))
            raise
        self._display.done(name, result if isinstance(result, str) else "")
        return result
