"""Work on the parts of a data set in processes of their own.

The results come in the order of the parts, whatever finishes first, so they are the same with any
number of processes; only a few parts are on the way at any time, so memory stays flat. Workers are
forked: they share what the caller has loaded, and they end with it. So ``work`` must not call what
waits for threads that the caller had and a fork has not: rensa does.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from finetune_trainer.container import available_cpus
from finetune_trainer.errors import StageError

_MAX_PROCESSES = 8
_PR_SET_PDEATHSIG = 1
_ALONE = 4
"""So many parts the caller works on itself: for less, processes cost more than they save."""
_GARBAGE = 100_000
"""New objects until Python looks for cycles: words and tokens are very many, and in none."""
_WAITING = 2
"""Parts on the way for each process."""

Part = TypeVar("Part")
Result = TypeVar("Result")

_work: Callable[[Any], Any]
"""In a worker."""


def usable_processes() -> int:
    """So many processes can compute at the same time here."""
    return min(_MAX_PROCESSES, available_cpus())


@contextmanager
def little_garbage() -> Iterator[None]:
    """Python looks for cycles more seldom."""
    usual = gc.get_threshold()
    gc.set_threshold(_GARBAGE)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def in_order(
    work: Callable[[Part], Result], parts: Iterable[Part], processes: int
) -> Iterator[Result]:
    """``work`` of each part, in the order of the parts. Parts and results are sent by pickle.

    Raises what ``work`` or ``parts`` raise, and that of the first part where several do; raises
    ``StageError`` where a worker was killed.
    """
    parts = iter(parts)
    if processes > 1:
        first, fault = _ahead(parts, _ALONE + 1)
        rest = itertools.chain(first, _raising(fault) if fault else parts)
        if len(first) > _ALONE:
            yield from _in_processes(work, rest, processes)
            return
        parts = rest
    yield from map(work, parts)


def _ahead(parts: Iterator[Part], count: int) -> tuple[list[Part], Exception | None]:
    """At most so many parts, and what was raised in place of the next one."""
    first: list[Part] = []
    try:
        for part in itertools.islice(parts, count):
            first.append(part)
    except Exception as error:
        return first, error
    return first, None


def _raising(fault: Exception) -> Iterator[Any]:
    raise fault
    yield


def _in_processes(
    work: Callable[[Part], Result], parts: Iterator[Part], processes: int
) -> Iterator[Result]:
    # Asked for before the fork: threads of the tokenizers do not survive it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), _begin, (work, os.getpid())
    )
    waiting: deque[Future[Result]] = deque()
    failed: BaseException | None = None
    # What is here before the fork is shared with the workers until somebody writes to it. Looking
    # for cycles among it writes to nearly all of it, and then it is in memory twice.
    gc.freeze()
    try:
        while failed is None:
            try:
                part = next(parts)
            except StopIteration:
                break
            except Exception as error:  # the parts before it come first
                failed = error
                break
            waiting.append(executor.submit(_do, part))
            if len(waiting) >= _WAITING * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise StageError(
            "a worker process of prepare was killed, perhaps for want of memory",
            "give the prepare stage more memory, or fewer CPUs: each has a process",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        gc.unfreeze()
    if failed is not None:
        raise failed


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    """In a new worker, which does not outlive its parent."""
    global _work
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    gc.set_threshold(_GARBAGE)
    _work = work


def _do(part: Any) -> Any:
    return _work(part)
