"""A proxy between an operator and the API server: it counts, refuses, cuts, and kills.

The operator needs no hook for tests: its kubeconfig names this door as the API server.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
from collections.abc import Callable

import aiohttp
from aiohttp import web
from yarl import URL

READS = ("GET", "HEAD")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length"}
TOO_OLD = b'"code":410'
MAX_BODY = 16 * 2**20


class Door:
    """Plain HTTP on this host, TLS with a client's certificate behind it. Use as a context."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server, self._tls = server, tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.Transport] = set()
        self._shut = False
        self.address = ""
        self.writes = 0
        """Requests that changed something or tried to."""
        self.after_write: Callable[[int], bool] | None = None
        """Called with the number of each write once the API server has answered it, before the
        operator learns of it. True: it never will."""
        self.refusing = 0.0
        """Share of the requests that are answered with 429."""
        self.refused = 0
        self.too_old = 0
        """Watches that were told that their version is too old (410)."""

    def __enter__(self) -> Door:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def shut(self) -> None:
        """Cut every connection and take no new ones."""
        self._shut = True
        self._loop.call_soon_threadsafe(self._cut)

    def open(self) -> None:
        self._shut = False

    def _cut(self) -> None:
        for transport in list(self._connections):
            transport.abort()

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type", "User-Agent"),
        )
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def _stop(self) -> None:
        self._cut()
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None or self._shut:
            return self._hang_up(transport)
        if self.refusing and random.random() < self.refusing:
            self.refused += 1
            return web.json_response(
                {"kind": "Status", "code": 429, "message": "too many requests, try again later"},
                status=429,
                headers={"Retry-After": "1"},
            )
        self._connections.add(transport)
        try:
            return await self._through(request, transport)
        except (aiohttp.ClientError, OSError):
            return self._hang_up(transport)
        finally:
            self._connections.discard(transport)

    async def _through(
        self, request: web.Request, transport: asyncio.Transport
    ) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            URL(self._server + request.raw_path, encoded=True),
            data=await request.read() or None,
            headers=_without_hops(request.headers),
        ) as answer:
            if request.method not in READS:
                self.writes += 1
                body = await answer.read()
                if self.after_write is not None and self.after_write(self.writes):
                    return self._hang_up(transport)
                return web.Response(
                    body=body, status=answer.status, headers=_without_hops(answer.headers)
                )
            response = web.StreamResponse(
                status=answer.status, headers=_without_hops(answer.headers)
            )
            await response.prepare(request)
            watching = "watch" in request.query
            self.too_old += watching and answer.status == 410
            async for chunk in answer.content.iter_any():
                if watching and TOO_OLD in chunk.replace(b" ", b""):
                    self.too_old += 1
                await response.write(chunk)
            await response.write_eof()
            return response

    def _hang_up(self, transport: asyncio.Transport | None) -> web.Response:
        """No answer at all: the connection ends."""
        if transport is not None:
            transport.abort()
        return web.Response(status=502)


def _without_hops(headers: object) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()  # type: ignore[attr-defined]
        if name.lower() not in HOP_BY_HOP
    }
