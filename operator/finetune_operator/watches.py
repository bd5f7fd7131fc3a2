"""kopf's HTTP session, made here: it parses lists cheaply and tells which watches stand.

kopf lists a kind, hands every object to a worker, and only then asks for the watch. So an answered
watch says that its whole list is on the way into the stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

from .engine.wire import parse

STILL_SECONDS = 0.2
"""A listed object needs a few turns of the event loop from kopf into a store."""


class Watches:
    """Which of the expected watches the API server has answered."""

    def __init__(self, paths: Iterable[str]) -> None:
        """``paths`` of the addresses that are watched."""
        self._missing = set(paths)
        self._all = asyncio.Event()

    def answered(self, path: str) -> None:
        self._missing.discard(path)
        if not self._missing:
            self._all.set()

    async def stand(self, listed: Callable[[], int]) -> None:
        """Until all watches stand and ``listed``, the number of objects that came, stays."""
        await self._all.wait()
        before = -1
        while before != (before := listed()):  # noqa: ASYNC110 - kopf has no event for it
            await asyncio.sleep(STILL_SECONDS)


class _Answer(aiohttp.ClientResponse):
    async def json(self, **options: Any) -> Any:
        if not self.ok:
            return await super().json(**options)  # kopf knows the errors of this one
        return parse(await self.read())


def session(info: kopf.ConnectionInfo, watches: Watches) -> kopf.AiohttpSession:
    """A session as kopf would make it from ``info``, apart from what this module is for."""

    async def answered(_: Any, __: SimpleNamespace, end: aiohttp.TraceRequestEndParams) -> None:
        if "watch" in end.url.query and end.response.ok:
            watches.answered(end.url.path)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(answered)
    # The way to the API server is short: compressing its lists costs both sides more than it saves.
    headers = {**info.as_http_headers(), "Accept-Encoding": "identity"}
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        priority=info.priority,
        expiration=info.expiration,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=headers,
            proxy=info.proxy_url,
            trust_env=info.trust_env,
            response_class=_Answer,
            trace_configs=[tracing],
        ),
    )
