"""kopf's session: when the first reading is complete, and what its answers are parsed by."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import kopf
import pytest
from aiohttp import web

from finetune_operator.engine.wire import parse, render
from finetune_operator.watches import Watches, session

PODS, JOBS = "/api/v1/pods", "/apis/batch/v1/jobs"


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Lists and watches of pods; watches of anything else are forbidden."""

    async def answer(request: web.Request) -> web.Response:
        if "watch" in request.query and request.path != PODS:
            return web.json_response({"kind": "Status", "message": "no"}, status=403)
        if "limit" in request.query:
            page = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
            return web.json_response(page)
        return web.json_response({"encoding": request.headers.get("Accept-Encoding")})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(
    server: str, watches: Watches, path: str, keepers: dict[str, Any] | None = None
) -> tuple[Any, aiohttp.RequestInfo]:
    """The answer's value, and what was asked."""
    connection = session(kopf.ConnectionInfo(server=server, token="t"), watches, keepers or {})
    async with connection.aiohttp_session as http, http.get(server + path) as answer:
        return await answer.json(), answer.request_info


async def stands(watches: Watches) -> bool:
    try:
        await asyncio.wait_for(watches.stand(), 0.2)
    except TimeoutError:
        return False
    return True


async def test_the_first_reading_is_complete_when_every_watch_was_answered(server: str) -> None:
    watches = Watches([PODS])
    await ask(server, watches, f"{PODS}?limit=100")
    assert not await stands(watches), "a list alone does not say that its objects were handed on"
    await ask(server, watches, f"{PODS}?watch=true&resourceVersion=1")
    assert await stands(watches)


async def test_a_watch_that_was_refused_does_not_stand(server: str) -> None:
    watches = Watches([PODS, JOBS])
    await ask(server, watches, f"{PODS}?watch=true")
    await ask(server, watches, f"{JOBS}?watch=true")
    assert not await stands(watches)


async def test_what_is_listed_is_kept_and_kopf_gets_an_empty_page(server: str) -> None:
    pods: list[Any] = []
    value, _ = await ask(server, Watches([]), f"{PODS}?limit=1", {"pods": pods.append})
    assert pods == [{"metadata": {"name": "a"}}]
    assert value == {"metadata": {"continue": "more"}, "items": []}


async def test_lists_come_uncompressed_with_the_credentials(server: str) -> None:
    value, asked = await ask(server, Watches([]), PODS)
    assert asked.headers["Authorization"] == "Bearer t"
    assert value == {"encoding": "identity"}


def test_parsing_searches_no_garbage_and_leaves_the_search_as_it_was() -> None:
    text = json.dumps([{"labels": {"a": str(n)}} for n in range(5_000)])
    gc.collect()
    before = sum(generation["collections"] for generation in gc.get_stats())
    value = parse(text)
    searches = sum(generation["collections"] for generation in gc.get_stats()) - before
    assert searches <= 1 and gc.isenabled(), "one may follow it"
    assert value == json.loads(text) and parse(render(value)) == value
    gc.disable()
    try:
        parse(b"{}")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        parse(b"<html>")
