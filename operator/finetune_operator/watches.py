"""kopf's HTTP session, made here: what kopf lists goes straight into the stores.

kopf lists a kind page by page and then asks for the watch. Handing each listed object to a worker
of its own, as kopf does, costs more than all that is decided on it. So the session made here keeps
the objects and shows kopf empty pages; events of the watches are left to kopf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

from .engine.wire import parse

Keep = Callable[[Mapping[str, Any]], object]


class Watches:
    """Which of the expected watches the API server has answered: all before them was listed."""

    def __init__(self, paths: Iterable[str]) -> None:
        """``paths`` of the addresses that are watched."""
        self._missing = set(paths)
        self._all = asyncio.Event()

    def answered(self, path: str) -> None:
        self._missing.discard(path)
        if not self._missing:
            self._all.set()

    async def stand(self) -> None:
        """Until all watches stand."""
        await self._all.wait()


def session(
    info: kopf.ConnectionInfo, watches: Watches, keepers: Mapping[str, Keep]
) -> kopf.AiohttpSession:
    """A session as kopf would make it from ``info``, apart from what this module is for.

    ``keepers``: plural of a kind → what takes its listed objects.
    """

    class Answer(aiohttp.ClientResponse):
        async def json(self, **options: Any) -> Any:
            if not self.ok:
                return await super().json(**options)  # kopf knows the errors of this one
            value = parse(await self.read())
            keep = keepers.get(self.url.name)
            if keep is not None and "items" in value:
                for item in value["items"]:
                    keep(item)
                value["items"] = []
            return value

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
            response_class=Answer,
            trace_configs=[tracing],
        ),
    )
