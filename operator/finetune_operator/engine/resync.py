"""Endless loops: workers on the queue, and a jittered repetition for what events missed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TypeVar

from .queue import WorkQueue

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

logger = logging.getLogger(__name__)


class Watermark:
    """When something last went well; the health probe asks for its age."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def reached(self) -> None:
        self._at = self._clock()

    @property
    def age_seconds(self) -> float:
        return self._clock() - self._at


async def work(queue: WorkQueue[K], reconcile: Callable[[K], Awaitable[float | None]]) -> None:
    """One worker: pass over key after key, for ever.

    ``reconcile`` returns the seconds after which it wants to look again, or None. When it raises,
    the key comes back with backoff, at least ``error.retry_after`` seconds later if it has that.
    """
    while True:
        key = await queue.get()
        try:
            again_after = await reconcile(key)
            queue.succeeded(key)
            if again_after is not None:
                queue.add_after(key, again_after)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            delay = queue.add_failed(key, getattr(error, "retry_after", 0.0) or 0.0)
            expected = getattr(error, "expected", False)
            logger.log(
                logging.INFO if expected else logging.ERROR,
                "pass failed, again in %.1f s: %s",
                delay,
                error,
                exc_info=None if expected else error,
                extra={"job": str(key)},
            )
        finally:
            queue.done(key)


async def insist(action: Callable[[], Awaitable[T]], pauses: Iterable[float]) -> T:
    """Try until it works, with these pauses between the tries; the last error is raised."""
    for pause in pauses:
        try:
            return await action()
        except Exception as error:
            logger.warning("again in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)
    return await action()


async def repeat(action: Callable[[], Awaitable[None]], *, seconds: float, jitter: float) -> None:
    """Run ``action`` every ``seconds`` ± ``jitter`` (a share); a failure waits for the next."""
    while True:
        await asyncio.sleep(seconds * random.uniform(1 - jitter, 1 + jitter))  # noqa: S311
        try:
            await action()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.warning("resync failed, again later: %s", error)
