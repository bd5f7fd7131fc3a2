"""kopf, the watch pump: what is listed or seen updates a store and enqueues the key of its job.

Nothing else happens here. An exception in such a handler would be logged and forgotten, so all
work that can fail is done behind the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import kopf

from .api.types import GROUP, PLURAL, VERSION
from .engine.queue import WorkQueue
from .engine.store import Key, Store, Stored
from .gather import Stores
from .objects.labels import JOB_LABEL
from .observed import ChildPod, Raw
from .reading import read_child_job, read_child_pod, read_job
from .watches import Watches, session

S = TypeVar("S", bound=Stored)


async def pump(
    stores: Stores,
    queue: WorkQueue[Key],
    namespaces: tuple[str, ...],
    watches: Watches,
    started: asyncio.Event,
) -> None:
    """Run the watches. Ends only by an error: kopf ends with its first broken watch.

    ``watches`` are told when they stand; ``started`` is set when kopf has installed its signal
    handlers, so that others can follow.
    """
    registry = kopf.OperatorRegistry()
    register(registry, stores, queue, watches)
    await kopf.operator(
        registry=registry,
        settings=pump_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        ready_flag=started,
        # Else kopf asks for the name of the user, and the image's has none.
        identity=cast(Any, "finetune-operator"),
    )


def register(
    registry: kopf.OperatorRegistry, stores: Stores, queue: WorkQueue[Key], watches: Watches
) -> None:
    """Watch FineTuneJobs and their children."""

    def keep_job(raw: Raw, kind: str | None = None) -> None:
        _keep(raw, kind, stores.jobs, read_job, queue)

    def keep_child_job(raw: Raw, kind: str | None = None) -> None:
        _keep(raw, kind, stores.child_jobs, read_child_job, queue)

    def keep_child_pod(raw: Raw, kind: str | None = None) -> None:
        _keep(raw, kind, stores.child_pods, read_pod, queue)

    def read_pod(raw: Raw) -> ChildPod:
        pod = read_child_pod(raw)
        stores.keep_last_words([pod])
        return pod

    @kopf.on.login(registry=registry)
    async def login(**known: Any) -> kopf.AiohttpSession | None:
        info = kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)
        keepers = {PLURAL: keep_job, "jobs": keep_child_job, "pods": keep_child_pod}
        return session(info, watches, keepers) if info else None

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def job_seen(event: kopf.RawEvent, **_: Any) -> None:
        keep_job(event["object"], event["type"])

    @kopf.on.event("batch", "v1", "jobs", registry=registry, labels={JOB_LABEL: kopf.PRESENT})
    async def child_job_seen(event: kopf.RawEvent, **_: Any) -> None:
        keep_child_job(event["object"], event["type"])

    @kopf.on.event("", "v1", "pods", registry=registry, labels={JOB_LABEL: kopf.PRESENT})
    async def child_pod_seen(event: kopf.RawEvent, **_: Any) -> None:
        keep_child_pod(event["object"], event["type"])


def _keep(
    raw: Raw, kind: str | None, store: Store[S], read: Callable[[Raw], S], queue: WorkQueue[Key]
) -> None:
    item = read(raw)
    if store.remove(item) if kind == "DELETED" else store.put(item):
        queue.add(item.key)


class CappedForever:
    """Pauses between retries of a watch: growing, capped, without an end."""

    def __iter__(self) -> Iterator[float]:
        pause = 0.5
        while True:
            yield pause
            pause = min(30.0, pause * 2)


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf copies each object to find differences; nobody here asks for them."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def pump_settings() -> kopf.OperatorSettings:
    """kopf as a pump: no events, no peering, no scanning, never giving up."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no watch on CRDs and namespaces: smaller rights
    settings.peering.standalone = True
    settings.watching.label_selectors["jobs"] = JOB_LABEL
    settings.watching.label_selectors["pods"] = JOB_LABEL
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 250  # what was listed and not yet handled lies in memory
    settings.networking.error_backoffs = CappedForever()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.queueing.idle_timeout = 0.1  # so long a worker's task outlives its last event
    settings.persistence.finalizer = f"{GROUP}/finalizer"  # never set; kopf's name must not show
    settings.persistence.diffbase_storage = NoDiffBase()
    return settings
