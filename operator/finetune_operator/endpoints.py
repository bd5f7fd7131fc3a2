"""The two small web servers: /metrics for Prometheus, /healthz for the kubelet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


async def serve(
    registry: CollectorRegistry,
    ailments: Callable[[], list[str]],
    *,
    metrics_port: int,
    health_port: int,
) -> list[web.AppRunner]:
    """Start both. ``ailments`` says what is wrong with this process; nothing: it is healthy."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def health(_: web.Request) -> web.Response:
        wrong = ailments()
        return web.Response(text="; ".join(wrong) or "ok", status=500 if wrong else 200)

    return [
        await _start("/metrics", metrics, metrics_port),
        await _start("/healthz", health, health_port),
    ]


async def _start(
    path: str, handler: Callable[[web.Request], Awaitable[web.Response]], port: int
) -> web.AppRunner:
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
