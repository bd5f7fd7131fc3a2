"""Start: load settings, connect, let the watches list the cluster, then work until told."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from . import lean_imports
from .api.types import KIND, StageName
from .cluster import KubernetesCluster, connect, watched_paths
from .endpoints import serve
from .engine.queue import WorkQueue
from .engine.resync import Watermark, insist, repeat, work
from .engine.store import Key, Store
from .errors import ClusterError
from .gather import Gatherer, Stores
from .handlers import CappedForever, pump
from .logs import configure_logs
from .metrics import OperatorMetrics, operator_metrics
from .observed import ChildPod
from .plan import Platform
from .progress import ProgressBoard, poll
from .reading import read_child_job, read_child_pod, read_job
from .reconcile import Reconciler
from .settings import BadSetting, Settings, load_settings
from .watches import Watches

lean_imports.done()

MAX_QUEUE_AGE_SECONDS = 120.0
RESTART_SECONDS = 2.0

logger = logging.getLogger("finetune_operator")


def main() -> None:
    """Run the operator until SIGTERM.

    There is no farewell: all state is in the cluster, and being stopped anywhere is normal.
    """
    try:
        settings = load_settings()
    except BadSetting as error:
        sys.exit(str(error))
    configure_logs(settings.log_level)
    ended = asyncio.Runner().run(run(settings))
    logging.shutdown()
    if ended is not None:
        # kopf takes every task of the process down with a broken watch, so the whole process
        # begins again. A container restart would do the same, after a growing pause.
        time.sleep(RESTART_SECONDS)
        os.execv(sys.executable, [sys.executable, "-m", "finetune_operator"])  # noqa: S606
    os._exit(0)


async def run(settings: Settings) -> BaseException | None:
    """Everything, until SIGTERM or SIGINT (None) or until a part breaks (its error)."""
    stores, queue, board = Stores(), WorkQueue[Key](), ProgressBoard()
    resynced, watching, started = Watermark(), asyncio.Event(), asyncio.Event()
    watches = Watches(watched_paths(settings.watched_namespaces))
    metrics = operator_metrics(
        lambda: stores.jobs, _gauges(stores, queue), settings.job_metrics_limit
    )
    cluster = await connect(metrics.count_request)
    await serve(
        metrics.registry,
        lambda: _ailments(queue, resynced, watching, settings),
        metrics_port=settings.metrics_port,
        health_port=settings.health_port,
    )
    platform = Platform(settings, await insist(cluster.kubernetes_minor, CappedForever()))
    gatherer = Gatherer(cluster, stores, board, platform, lambda: datetime.now(UTC))
    events: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
    reconciler = Reconciler(cluster, gatherer, events.put_nowait)
    reconcile = _measured(reconciler.reconcile, metrics)

    def in_step() -> None:
        metrics.resync_timestamp.set_to_current_time()
        resynced.reached()

    async def resync() -> None:
        for key in await read_all(cluster, stores, settings):
            queue.add(key)
        in_step()

    async def keep_in_step() -> None:
        """The watches' own lists are the first reading of the cluster."""
        await watches.stand()
        gc.collect()
        gc.freeze()  # what is there now stays: later collections need not walk it
        in_step()
        logger.info("watching")
        watching.set()
        await repeat(resync, seconds=settings.resync_seconds, jitter=0.2)

    async def worker() -> None:
        await watching.wait()  # nothing is decided on half of the cluster
        await work(queue, reconcile)

    await insist(lambda: cluster.readable(settings.watched_namespaces), CappedForever())
    return await _first_end(
        pump(stores, queue, settings.watched_namespaces, watches, started),
        _asked_to_stop(started),
        post(events, cluster),
        *(worker() for _ in range(settings.workers)),
        keep_in_step(),
        poll(
            lambda: _rank_zero_pods(stores),
            board,
            queue.add,
            seconds=settings.progress_seconds,
            in_flight=settings.progress_requests,
        ),
    )


async def _first_end(*parts: Coroutine[Any, Any, Any]) -> BaseException | None:
    """Run all parts side by side until one ends. Returns its error; None: it was a signal."""
    tasks = [asyncio.create_task(part) for part in parts]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    first = done.pop()
    error = asyncio.CancelledError() if first.cancelled() else first.exception()
    if error is None:
        logger.info("asked to stop")
        return None
    logger.warning("a watch ended, beginning again: %s", error)
    return error


async def _asked_to_stop(started: asyncio.Event) -> None:
    """Until SIGTERM or SIGINT. kopf's own handlers wait seconds for its workers: replace them."""
    await started.wait()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()


async def post(events: asyncio.Queue[Mapping[str, Any]], cluster: KubernetesCluster) -> None:
    """Post Events one after the other: they must never slow down the work that they tell of."""
    while True:
        event = await events.get()
        try:
            await cluster.post_event(event)
        except ClusterError as error:
            logger.info("event not posted: %s", error)


async def read_all(cluster: KubernetesCluster, stores: Stores, settings: Settings) -> set[Key]:
    """Read the whole cluster into the stores. Returns the jobs for which something was news."""
    changed: set[Key] = set()
    places: tuple[tuple[str, Store[Any], Any], ...] = (
        ("Pod", stores.child_pods, read_child_pod),
        ("Job", stores.child_jobs, read_child_job),
        (KIND, stores.jobs, read_job),
    )
    for kind, store, read in places:
        listed, versions = [], []
        async for page, at in cluster.listing(kind, settings.watched_namespaces):
            listed += [read(raw) for raw in page]
            versions.append(at)
            await asyncio.sleep(0)
        if store is stores.child_pods:
            stores.keep_last_words(listed)
        changed |= store.synchronise(listed, min(versions))
    return changed


def _rank_zero_pods(stores: Stores) -> list[ChildPod]:
    """Pods that answer /progress: rank 0 of every gang that is up, or was when Kubernetes last
    heard from its node."""
    return [
        pod
        for pod in stores.child_pods
        if pod.stage == StageName.TRAIN.value and pod.index == 0 and _answers(pod)
    ]


def _answers(pod: ChildPod) -> bool:
    return (pod.ready or pod.silent is not None) and not pod.deleting


def _measured(
    reconcile: Callable[[Key], Awaitable[float | None]], metrics: OperatorMetrics
) -> Callable[[Key], Awaitable[float | None]]:
    async def measured(key: Key) -> float | None:
        with metrics.reconcile_seconds.time():
            try:
                return await reconcile(key)
            except Exception as error:
                metrics.reconcile_errors.labels(type(error).__name__).inc()
                raise

    return measured


def _gauges(stores: Stores, queue: WorkQueue[Key]) -> dict[str, tuple[str, Callable[[], float]]]:
    return {
        "finetune_operator_queue_depth": ("Jobs that wait for a worker.", lambda: len(queue)),
        "finetune_operator_queue_busy": ("Jobs that are worked on now.", lambda: queue.busy),
        "finetune_operator_queue_oldest_age_seconds": (
            "How long the job that waits longest has been waiting.",
            lambda: queue.oldest_age_seconds,
        ),
        "finetune_operator_evidence_records": (
            "Ended pods that are remembered.",
            lambda: len(stores.evidence),
        ),
    }


def _ailments(
    queue: WorkQueue[Key], resynced: Watermark, watching: asyncio.Event, settings: Settings
) -> list[str]:
    """What is wrong with this process; the kubelet restarts it for it."""
    wrong = [] if watching.is_set() else ["not watching yet"]
    if queue.oldest_age_seconds > MAX_QUEUE_AGE_SECONDS:
        wrong.append(f"a job waits for {queue.oldest_age_seconds:.0f} s")
    if resynced.age_seconds > 4 * settings.resync_seconds:
        wrong.append(f"the cluster was last read {resynced.age_seconds:.0f} s ago")
    return wrong


if __name__ == "__main__":
    main()
