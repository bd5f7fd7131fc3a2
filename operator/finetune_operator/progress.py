"""Asking rank 0 how far it is: ``GET /progress`` at the pod's address.

The answer is a stranger's: only the address from Pod status is asked, no redirect is followed,
and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import aiohttp

from .engine.store import Key
from .observed import ChildPod
from .reports import ProgressReport, read_progress
from .run_config import METRICS_PORT

MAX_BYTES = 64 * 1024
TIMEOUT = aiohttp.ClientTimeout(total=2)

logger = logging.getLogger(__name__)


class Heard(NamedTuple):
    """What a training job said, and when it last gave a new sign of life.

    The signs bear the times of the nodes' clocks, and these may be wrong. So what counts is that a
    sign is another than before, and when that was by the clock of the operator.
    """

    uid: str
    report: ProgressReport
    at: datetime


class ProgressBoard:
    """The newest report of each training job."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._heard: dict[Key, Heard] = {}

    def get(self, key: Key, uid: str) -> Heard | None:
        """Of the job with that UID, not of an earlier one of its name."""
        known = self._heard.get(key)
        return known if known is not None and known.uid == uid else None

    def put(self, key: Key, uid: str, report: ProgressReport) -> bool:
        """Returns whether it says something new."""
        known = self.get(key, uid)
        same = known is not None and known.report.signs == report.signs
        self._heard[key] = Heard(uid, report, known.at if known and same else self._clock())
        return known is None or known.report != report

    def forget(self, key: Key) -> None:
        self._heard.pop(key, None)


async def ask(session: aiohttp.ClientSession, ip: str) -> ProgressReport | None:
    """One question; None where there is no good answer."""
    host = f"[{ip}]" if ":" in ip else ip
    url = f"http://{host}:{METRICS_PORT}/progress"
    try:
        async with session.get(url, allow_redirects=False, timeout=TIMEOUT) as answer:
            if answer.status != 200:
                return None
            body = b""
            async for chunk in answer.content.iter_chunked(MAX_BYTES):
                body += chunk
                if len(body) > MAX_BYTES:
                    return None
            return read_progress(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


async def poll(
    rank_zero_pods: Callable[[], Iterable[ChildPod]],
    board: ProgressBoard,
    changed: Callable[[Key], None],
    *,
    seconds: float,
    in_flight: int,
) -> None:
    """Ask every training job in turn, for ever; ``changed(key)`` where the answer is news.

    A round takes at least ``seconds``, so a job's status is written at most that often; many
    jobs make the rounds longer instead of the questions more.
    """
    limit = asyncio.Semaphore(in_flight)

    async def ask_one(session: aiohttp.ClientSession, pod: ChildPod, delay: float) -> None:
        await asyncio.sleep(delay)
        async with limit:
            report = await ask(session, pod.ip)
        if report is not None and board.put(pod.key, pod.owner_uid, report):
            changed(pod.key)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        while True:
            pods = [pod for pod in rank_zero_pods() if pod.ip]
            round_seconds = max(seconds, len(pods) / in_flight)
            # Spread over the round: neither the network nor the status writes come in bursts.
            spread = round_seconds * 0.5 / max(1, len(pods))
            asked = [ask_one(session, pod, i * spread) for i, pod in enumerate(pods)]
            results = await asyncio.gather(
                asyncio.sleep(round_seconds), *asked, return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    logger.warning("asking for progress failed: %r", result)
