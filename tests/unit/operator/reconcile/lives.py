"""An operator process in a small world, and what happens to its job."""

from __future__ import annotations

from typing import Any

from builders import KEY, PLATFORM, last_words
from fake_cluster import FakeCluster

from finetune_operator.api.types import StageName
from finetune_operator.errors import NotThere, Stale
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.progress import ProgressBoard
from finetune_operator.reconcile import Reconciler

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT
METRICS = {"loss": 1.25, "evalLoss": 1.5}
SAID: dict[StageName, dict[str, Any]] = {
    P: {"steps": 90, "data": {"rows": 4, "kept": 4}},
    T: {"step": 90, "steps": 90, "metrics": METRICS},
    X: {"train": {"step": 90, "steps": 90, "metrics": METRICS}},
}
"""The last words of each stage's pods."""


class Operator:
    """One life of the operator process: its stores die with it."""

    def __init__(self, world: FakeCluster, events: list[Any] | None = None) -> None:
        self.world = world
        self.stores = Stores()
        self.events = [] if events is None else events
        self.gatherer = Gatherer(world, self.stores, ProgressBoard(), PLATFORM, lambda: world.now)
        self.reconciler = Reconciler(world, self.gatherer, self.events.append)

    async def settle(self) -> float | None:
        """The watches catch up, and the job is passed over until it is at rest."""
        again: float | None = None
        for _ in range(10):
            changed = self.world.sync(self.stores)
            try:
                again = await self.reconciler.reconcile(KEY)
            except (Stale, NotThere):
                continue
            if not changed:
                return again
        return again


def end_stage(world: FakeCluster, stage: StageName, code: int = 0) -> None:
    """The controllers bring the stage's pods up, and each ends well."""
    world.make_pods()
    world.start_pods()
    for pod in world.child_pods(KEY):
        if pod.stage == stage.value and pod.phase == "Running":
            words = last_words(stage, attempt=pod.attempt, **SAID[stage])
            world.end_pod(pod.name, code, words)
    world.judge_jobs()


async def live_a_life(world: FakeCluster, operator: Operator) -> None:
    for stage in (P, T, X):
        await operator.settle()
        world.make_pods()
        world.start_pods()
        await operator.settle()
        end_stage(world, stage)
    await operator.settle()


async def reach_training(world: FakeCluster, operator: Operator) -> None:
    await operator.settle()
    end_stage(world, P)
    await operator.settle()
    await bring_gang_up(world, operator)


async def bring_gang_up(world: FakeCluster, operator: Operator) -> None:
    world.make_pods()
    world.start_pods()
    await operator.settle()


async def lose_gang(world: FakeCluster, operator: Operator, attempt: int, step: int) -> None:
    """Rank 1 runs out of memory; the survivors go; the Job is Failed."""
    report = {"class": "Internal", "message": "it broke", "step": step}
    words = last_words(T, "failed", attempt, failure=report)
    world.end_pod(f"demo-a{attempt}-1", 70, words)
    world.judge_jobs()
    await operator.settle()
    world.finish_terminating()
    world.judge_jobs()
    await operator.settle()
