"""A deduplicating work queue with backoff: the contract of client-go's workqueue, in asyncio.

A key is in the queue at most once. While it is worked on, an ``add`` is remembered and the key
comes back afterwards, so no event is lost and no key is ever worked on twice at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """Keys to work on. Use it from one event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._dirty: dict[K, float] = {}  # key → since when it waits for a worker
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}

    def add(self, key: K) -> None:
        """Ask for a pass over ``key``; asking twice before it starts is asking once."""
        if key in self._dirty:
            return
        self._dirty[key] = self._clock()
        if key not in self._busy:
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a pass in ``seconds``; of several such wishes the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock() + seconds
        if key in self._timers:
            earlier, handle = self._timers[key]
            if earlier <= due:
                return
            handle.cancel()
        handle = asyncio.get_running_loop().call_later(seconds, self._fire, key)
        self._timers[key] = (due, handle)

    def add_failed(self, key: K, at_least: float = 0.0) -> float:
        """Ask for another try after a failure. Returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures, 20))
        # Spread, so that keys which failed together do not come back together.
        delay = max(longest * random.uniform(0.5, 1.0), at_least)  # noqa: S311
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget the failures of ``key``."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, as soon as there is one. ``done`` must follow."""
        key = await self._ready.get()
        del self._dirty[key]
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """The pass over ``key`` is over, well or badly."""
        self._busy.discard(key)
        if key in self._dirty:
            self._ready.put_nowait(key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._dirty)

    @property
    def busy(self) -> int:
        """Keys that are worked on now."""
        return len(self._busy)

    @property
    def oldest_age_seconds(self) -> float:
        """How long the key that waits longest has been waiting; 0 when none waits."""
        return self._clock() - next(iter(self._dirty.values())) if self._dirty else 0.0
