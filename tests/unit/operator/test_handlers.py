"""Handlers: every event updates a store and enqueues a key, and that is all."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from builders import KEY

from finetune_operator.__main__ import read_all
from finetune_operator.engine.queue import WorkQueue
from finetune_operator.engine.store import Key
from finetune_operator.gather import Stores
from finetune_operator.handlers import CappedForever, pump_settings, register
from finetune_operator.policies.failure import find_culprit
from finetune_operator.settings import Settings
from finetune_operator.watches import Watches

META: dict[str, Any] = {
    "namespace": KEY.namespace,
    "name": "demo-a0-1",
    "uid": "u1",
    "labels": {"finetune.dev/job": KEY.name},
    "ownerReferences": [{"kind": "Job", "uid": "j1", "controller": True}],
}


class Pump:
    """The registered handlers, called as kopf calls them."""

    def __init__(self) -> None:
        self.stores, self.queue = Stores(), WorkQueue[Key]()
        registry = kopf.OperatorRegistry()
        register(registry, self.stores, self.queue, Watches(()))
        self.handlers = {
            handler.selector.any_name or handler.selector.plural: handler.fn
            for handler in registry._watching.get_all_handlers()
        }

    async def event(self, plural: str, kind: str | None, version: int, **fields: Any) -> None:
        meta = {**META, "resourceVersion": str(version)}
        await self.handlers[plural](event={"type": kind, "object": {"metadata": meta, **fields}})


@pytest.fixture
def pump() -> Pump:
    return Pump()


async def test_three_kinds_are_watched(pump: Pump) -> None:
    assert set(pump.handlers) == {"finetunejobs", "jobs", "pods"}


async def test_an_event_enqueues_the_key_of_its_job(pump: Pump) -> None:
    await pump.event("pods", None, 5)
    assert len(pump.queue) == 1
    assert await pump.queue.get() == KEY
    assert [pod.name for pod in pump.stores.child_pods.of(KEY)] == ["demo-a0-1"]


async def test_the_echo_of_what_is_known_enqueues_nothing(pump: Pump) -> None:
    await pump.event("pods", "ADDED", 5)
    pump.queue.done(await pump.queue.get())
    await pump.event("pods", "MODIFIED", 5)
    await pump.event("pods", "MODIFIED", 6)
    assert len(pump.queue) == 0


async def test_a_deletion_removes_and_enqueues(pump: Pump) -> None:
    await pump.event("pods", "ADDED", 5)
    pump.queue.done(await pump.queue.get())
    await pump.event("pods", "DELETED", 6)
    assert pump.stores.child_pods.of(KEY) == ()
    assert len(pump.queue) == 1


async def test_a_terminated_pod_leaves_evidence_that_outlives_it(pump: Pump) -> None:
    ended = {"terminated": {"exitCode": 71, "message": "last words"}}
    await pump.event("pods", "MODIFIED", 5, status={"containerStatuses": [{"state": ended}]})
    await pump.event("pods", "DELETED", 6)
    (words,) = pump.stores.evidence.of("j1")
    assert words.terminated is not None and words.terminated.exit_code == 71


async def test_the_culprit_of_a_large_gang_may_be_heard_last(pump: Pump) -> None:
    """Its kubelet is slow; by then all others have lost it, and all pods go."""

    def told(code: int, second: int) -> dict[str, Any]:
        end = {"exitCode": code, "finishedAt": f"2026-11-23T12:00:{second:02}Z"}
        return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": end}}]}

    for index in range(41):
        code, second = (137, 1) if index == 40 else (74, 2)
        meta = {**META, "name": f"demo-a0-{index}", "uid": f"u-{index}", "resourceVersion": "6"}
        for kind in ("MODIFIED", "DELETED"):
            raw = {"metadata": meta, "status": told(code, second)}
            await pump.handlers["pods"](event={"type": kind, "object": raw})
    culprit = find_culprit(pump.stores.evidence.of("j1"))
    assert culprit is not None and culprit.name == "demo-a0-40"


def test_the_watches_never_give_up() -> None:
    pauses = list(itertools.islice(CappedForever(), 100))
    assert pauses[0] == 0.5 and pauses[-1] == 30.0 and pauses == sorted(pauses)


def test_kopf_is_a_pump_and_nothing_more() -> None:
    settings = pump_settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.peering.standalone is True
    selectors = settings.watching.label_selectors
    assert [selectors["jobs"], selectors["pods"]] == ["finetune.dev/job"] * 2


class Listing:
    """A list of pods, as the cluster module hands it out; other kinds have none."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self._pods = list(pods)

    async def listing(self, kind: str, _: Any) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        yield (self._pods if kind == "Pod" else []), 9


async def test_a_whole_reading_keeps_the_last_words_that_a_cut_watch_missed(pump: Pump) -> None:
    ended = {"terminated": {"exitCode": 71, "message": "last words"}}
    pod = {
        "metadata": {**META, "resourceVersion": "7"},
        "status": {"containerStatuses": [{"state": ended}]},
    }
    await pump.event("pods", "ADDED", 5)
    cluster: Any = Listing(pod)
    assert await read_all(cluster, pump.stores, Settings()) == {KEY}
    await pump.event("pods", "DELETED", 8)
    (words,) = pump.stores.evidence.of("j1")
    assert words.terminated is not None and words.terminated.message == "last words"
    pump.stores.evidence.forget("j1")
    cluster = Listing({**pod, "metadata": {**pod["metadata"], "uid": "u2"}})
    await read_all(cluster, pump.stores, Settings())
    pump.stores.evidence.forget("j1")
    await read_all(cluster, pump.stores, Settings())
    assert pump.stores.evidence.of("j1") == (), "what is no news pushes nothing out"
