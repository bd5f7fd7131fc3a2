"""GET /progress: a stranger's answer, bounded in size and time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from builders import KEY, NOW, UID, make_pod, seconds

from finetune_operator import progress
from finetune_operator.engine.store import Key
from finetune_operator.progress import ProgressBoard, ask, poll
from finetune_operator.reports import ProgressReport, read_progress

REPORT = {"attempt": 0, "step": 3, "updatedAt": 1.0}
Serve = Callable[[Any], Any]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    runners = []

    async def start(handler: Any) -> None:
        app = web.Application()
        app.router.add_get("/progress", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        monkeypatch.setattr(progress, "METRICS_PORT", runner.addresses[0][1])
        runners.append(runner)

    yield start
    for runner in runners:
        await runner.cleanup()


async def asked() -> Any:
    async with aiohttp.ClientSession() as session:
        return await ask(session, "127.0.0.1")


async def test_a_good_answer_is_read(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(REPORT)

    await serve(answer)
    report = await asked()
    assert (report.attempt, report.step) == (0, 3)


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    hits = []

    async def answer(request: web.Request) -> web.Response:
        hits.append(request.path)
        raise web.HTTPFound("/progress?elsewhere")

    await serve(answer)
    assert await asked() is None
    assert len(hits) == 1


async def test_more_than_64_kib_are_not_read(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=json.dumps({**REPORT, "junk": "x" * 70_000}))

    await serve(answer)
    assert await asked() is None


async def test_a_slow_answer_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.json_response(REPORT)

    await serve(answer)
    monkeypatch.setattr(progress, "TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    assert await asked() is None


@pytest.mark.parametrize(("status", "body"), [(500, "{}"), (200, "not JSON"), (204, "")])
async def test_anything_else_is_no_answer(serve: Serve, status: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    await serve(answer)
    assert await asked() is None


async def test_nobody_listening_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "METRICS_PORT", 9)
    assert await asked() is None


async def test_every_gang_is_asked_once_a_round_and_only_news_wakes_its_job(serve: Serve) -> None:
    hits = []

    async def answer(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.json_response(REPORT)

    await serve(answer)
    board, news = ProgressBoard(), list[Key]()
    pods = [make_pod(0, ip="127.0.0.1"), make_pod(0, ip="")]
    polling = asyncio.create_task(poll(lambda: pods, board, news.append, seconds=0.1, in_flight=5))
    await asyncio.sleep(0.35)
    polling.cancel()
    assert 2 <= len(hits) <= 4
    assert news == [KEY]
    heard = board.get(KEY, UID)
    assert heard is not None and heard.report.step == 3
    assert board.get(KEY, "of an earlier job of this name") is None
    board.forget(KEY)
    assert board.get(KEY, UID) is None


async def test_a_gang_that_does_not_answer_leaves_the_others_alone(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(REPORT)

    await serve(answer)
    board, news = ProgressBoard(), list[Key]()
    other = Key("team-a", "other")
    pods = [make_pod(0, ip="no address"), make_pod(0, ip="127.0.0.1", key=other)]
    polling = asyncio.create_task(poll(lambda: pods, board, news.append, seconds=0.1, in_flight=5))
    await asyncio.sleep(0.3)
    polling.cancel()
    assert news == [other]


@pytest.mark.parametrize("skew", [-7200, -120, 0, 120])
def test_life_is_a_sign_that_changes_whatever_the_clocks_of_the_nodes_say(skew: int) -> None:
    """Each rank's time is that of its node; the board counts by its own."""
    now = NOW

    def say(step: int, *ages: float, attempt: int = 0) -> ProgressReport:
        beats = [{"rank": n, "at": NOW.timestamp() + skew * n - age} for n, age in enumerate(ages)]
        told = {"attempt": attempt, "updatedAt": NOW.timestamp(), "step": step, "ranks": beats}
        report = read_progress(json.dumps(told).encode())
        assert report is not None
        return report

    board = ProgressBoard(lambda: now)
    history = []
    for report in (say(1, 9, 9), say(1, 9, 9), say(1, 9, 4), say(1, 9, 4), say(1, 9, 4, attempt=1)):
        board.put(KEY, UID, report)
        heard = board.get(KEY, UID)
        assert heard is not None and heard.report is report
        history.append((now - heard.at).total_seconds())
        now += seconds(10)
    assert history == [0, 10, 0, 10, 0]
