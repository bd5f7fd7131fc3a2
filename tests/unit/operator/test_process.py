"""The whole process against a scripted API server: start, health, a broken watch, SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

OPERATOR = Path(__file__).parents[3] / "operator"
RESOURCES = {
    "/apis/finetune.dev/v1alpha1": {"finetunejobs": "FineTuneJob"},
    "/apis/batch/v1": {"jobs": "Job"},
    "/api/v1": {"pods": "Pod", "namespaces": "Namespace"},
}

NAMELESS_USER = """
import pwd

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
"""
"""As in a container: the user of the process is a number without a name."""


class ApiServer:
    """Discovery, empty lists, and watches that a test can break."""

    def __init__(self) -> None:
        self.starts = 0
        """How often a process asked for the version: once at each start."""
        self.broken = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_get("/{path:.*}", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/version":
            self.starts += 1
            return web.json_response({"major": "1", "minor": "36"})
        if path in ("/api", "/apis"):
            return web.json_response(_groups(path))
        if path in RESOURCES:
            return web.json_response(_discovery(path))
        if "watch" in request.query:
            return await self._watch(request)
        return web.json_response({"metadata": {"resourceVersion": "10"}, "items": []})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        bookmark = {"kind": "Pod", "metadata": {"resourceVersion": "10"}}
        await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        await self.broken.wait()
        self.broken.clear()
        status = {"kind": "Status", "code": 500, "message": "etcd went away"}
        await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        await asyncio.sleep(30)
        return response


def _groups(path: str) -> dict[str, Any]:
    if path == "/api":
        return {"versions": ["v1"]}
    groups = [("batch", "v1"), ("finetune.dev", "v1alpha1")]
    return {
        "groups": [
            {
                "name": name,
                "versions": [{"version": version, "groupVersion": f"{name}/{version}"}],
                "preferredVersion": {"version": version},
            }
            for name, version in groups
        ]
    }


def _discovery(path: str) -> dict[str, Any]:
    same = {"singularName": "", "namespaced": True, "verbs": ["get", "list", "watch"]}
    return {
        "resources": [
            {"name": plural, "kind": kind, **same} for plural, kind in RESOURCES[path].items()
        ]
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Operator:
    """``python -m finetune_operator`` as a child process."""

    def __init__(self, process: asyncio.subprocess.Process, health: int, metrics: int) -> None:
        self.process = process
        self._health = f"http://127.0.0.1:{health}/healthz"
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"

    async def healthy(self) -> None:
        for _ in range(300):
            try:
                await asyncio.to_thread(urllib.request.urlopen, self._health, timeout=1)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return
        pytest.fail("never healthy")

    async def metrics(self) -> str:
        answer = await asyncio.to_thread(urllib.request.urlopen, self._metrics, timeout=5)
        return str(answer.read().decode())


@pytest.fixture
async def server() -> AsyncIterator[tuple[ApiServer, str]]:
    server = ApiServer()
    runner = web.AppRunner(server.app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def operator(server: tuple[ApiServer, str], tmp_path: Path) -> AsyncIterator[Operator]:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server[1]}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "sitecustomize.py").write_text(NAMELESS_USER)
    named = ("LOGNAME", "USER", "LNAME", "USERNAME")
    inherited = {name: value for name, value in os.environ.items() if name not in named}
    health, metrics = _free_port(), _free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "finetune_operator"),
        env=inherited
        | {
            "PYTHONPATH": f"{tmp_path}:{OPERATOR}",
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "FINETUNE_HEALTH_PORT": str(health),
            "FINETUNE_METRICS_PORT": str(metrics),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    yield Operator(process, health, metrics)
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_is_healthy_once_it_watches_and_ends_at_once_when_told(
    operator: Operator, server: tuple[ApiServer, str]
) -> None:
    await operator.healthy()
    assert "finetune_operator_queue_depth 0.0" in await operator.metrics()
    operator.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(operator.process.wait(), 1.5) == 0
    assert server[0].starts == 1


async def test_a_broken_watch_makes_the_process_begin_again(
    operator: Operator, server: tuple[ApiServer, str]
) -> None:
    api, _ = server
    await operator.healthy()
    await asyncio.sleep(0.5)
    api.broken.set()
    for _ in range(300):
        if api.starts == 2:
            break
        await asyncio.sleep(0.1)
    assert api.starts == 2
    await operator.healthy()
    assert operator.process.returncode is None
