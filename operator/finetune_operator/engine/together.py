"""Questions that come up while another one is asked are asked together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Together(Generic[K, V]):
    """One call for many keys at a time, never for none.

    A call begins after its keys were asked for, so no answer is older than its question.
    """

    def __init__(
        self, call: Callable[[tuple[K, ...]], Awaitable[Mapping[K, V]]], *, at_most: int
    ) -> None:
        """``call`` has an answer for every key, or raises for all of them."""
        self._call = call
        self._at_most = at_most
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, key: K) -> V:
        """The answer for ``key``; raises what the call raised."""
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        answer = self._waiting[key]
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(answer)

    async def _ask_all(self) -> None:
        while self._waiting:
            keys = tuple(islice(self._waiting, self._at_most))
            waiting = {key: self._waiting.pop(key) for key in keys}
            try:
                answers = await self._call(keys)
            except Exception as error:
                for future in waiting.values():
                    future.set_exception(error)
            else:
                for key, future in waiting.items():
                    future.set_result(answers[key])
        self._asking = None
