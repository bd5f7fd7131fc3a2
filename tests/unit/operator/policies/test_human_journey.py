"""A job that people judge, played through over a small cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import KEY, PLATFORM, last_words, main_condition, make_spec
from fake_cluster import Crash, FakeCluster
from unit.operator.policies.ratings import ASKED, BUNDLE, NAME, RATING, sheet, spec

from finetune_operator.api.types import StageName
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.progress import ProgressBoard
from finetune_operator.reconcile import Reconciler

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT


class World:
    """An operator over a small cluster, with a job up to the end of its first export."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.cluster = FakeCluster()
        self.raw = self.cluster.add_job(KEY, wish)
        self.start()

    def start(self) -> None:
        """A new life of the operator."""
        self.stores = Stores()
        gatherer = Gatherer(
            self.cluster, self.stores, ProgressBoard(), PLATFORM, lambda: self.cluster.now
        )
        gatherer._ask = self._fresh(gatherer)  # type: ignore[method-assign]
        self.reconciler = Reconciler(self.cluster, gatherer, lambda event: None)

    @staticmethod
    def _fresh(gatherer: Gatherer) -> Any:
        """Answers count for seconds of the real clock, and these tests take none."""
        ask = gatherer._ask

        async def fresh(*what: str) -> Any:
            gatherer._answers.clear()
            return await ask(*what)

        return fresh

    @property
    def status(self) -> Any:
        return self.cluster.stored(KEY).status

    async def settle(self) -> float | None:
        again = None
        for _ in range(3):
            self.cluster.sync(self.stores)
            again = await self.reconciler.reconcile(KEY)
        return again

    async def stage(self, name: StageName, **said: Any) -> None:
        """The stage's pods come up and end with these words."""
        await self.settle()
        self.cluster.make_pods()
        self.cluster.start_pods()
        await self.settle()
        for pod in self.cluster.child_pods(KEY):
            if pod.stage == name.value and pod.phase == "Running":
                self.cluster.end_pod(pod.name, 0, last_words(name, attempt=pod.attempt, **said))
        self.cluster.judge_jobs()
        await self.settle()

    async def train(self) -> None:
        await self.stage(P, steps=90)
        await self.stage(T, step=90, steps=90)

    def rate(self, wins: int, *raters: str) -> None:
        uid = self.raw["metadata"]["uid"]
        files = {f"{name}.json": sheet(name, wins, uid=uid) for name in raters}
        self.cluster.config_maps[NAME] = files

    def pods(self) -> list[str]:
        return [pod.name for pod in self.cluster.child_pods(KEY) if not pod.finished]

    def writes(self) -> int:
        return sum(kind == "FineTuneJob" for _, kind, _ in self.cluster.writes)


ARTIFACT = {"digest": "sha256:1", "bytes": 42, "formats": ["Merged"]}


async def test_from_training_over_people_to_the_published_model() -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    assert main_condition(world.status)["reason"] == "WaitingForRatings"
    assert world.pods() == []
    before = world.writes()
    for _ in range(5):
        world.cluster.pass_time(30)
        assert await world.settle() == 30.0
    assert world.writes() == before, "waiting writes nothing"

    world.rate(8, "Ann", "Ben")
    world.cluster.pass_time(600)
    await world.settle()
    assert [job.name for job in world.cluster.child_jobs(KEY)][-2:] == ["demo-x0", "demo-x1"]
    text = world.cluster.objects["ConfigMap", "team-a", "demo-run"]["data"]["run.json"]
    assert json.loads(text)["gate"]["human"]["bundle"] == BUNDLE
    await world.stage(X, artifact=ARTIFACT, rating=RATING, gate={"message": "people like it"})
    status = world.status
    assert (status["phase"], status["artifact"]["digest"]) == ("Succeeded", "sha256:1")
    assert status["humanEvaluation"]["winRate"] == "0.8"
    gate = main_condition(status, "GatePassed")
    assert (gate["status"], gate["message"]) == ("True", "people like it")
    spent = status["goodput"]["seconds"]
    assert spent["suspended"] == 750 and spent["export"] == 0
    assert world.writes() <= 12

    world.rate(0, "Ann", "Ben")
    world.cluster.pass_time(600)
    assert await world.settle() is None
    assert world.status == status, "what was accepted stays"


async def test_a_model_that_people_do_not_like_is_never_exported() -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    world.rate(5, "Ann", "Ben")
    await world.settle()
    assert (world.status["phase"], world.status["failure"]["class"]) == ("Failed", "GateFailed")
    assert [job.name for job in world.cluster.child_jobs(KEY)][-1] == "demo-x0"


@pytest.mark.parametrize("after", range(1, 6))
async def test_an_operator_that_dies_on_the_way_publishes_once(after: int) -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    world.rate(8, "Ann", "Ben")
    world.cluster.crash_after = after
    try:
        await world.stage(X, artifact=ARTIFACT, rating=RATING)
    except Crash:
        world.start()
        await world.settle()
        world.cluster.make_pods()
        await world.stage(X, artifact=ARTIFACT, rating=RATING)
    assert world.status["phase"] == "Succeeded"
    assert [job.name for job in world.cluster.child_jobs(KEY)] == [
        "demo-p0", "demo-a0", "demo-x0", "demo-x1",
    ]  # fmt: skip


async def test_without_a_gate_ratings_come_after_the_model_is_published() -> None:
    world = World(make_spec(evaluation=ASKED))
    await world.train()
    await world.stage(X, artifact=ARTIFACT, rating=RATING)
    assert world.status["phase"] == "Succeeded"
    assert world.status["humanEvaluation"]["bundle"] == BUNDLE
    ended = world.writes()
    assert await world.settle() == 120.0
    world.rate(7, "Ann")
    assert await world.settle() == 120.0
    people = world.status["humanEvaluation"]
    assert (people["winRate"], people["ratings"], people.get("agreement")) == ("0.7", 10, None)
    assert main_condition(world.status, "Succeeded")["status"] == "True"
    assert world.writes() == ended + 1
    world.cluster.config_maps.clear()
    await world.settle()
    assert world.status["humanEvaluation"] == people, "tidying up takes nothing back"
    world.cluster.config_maps[NAME] = {"a": "{"}
    await world.settle()
    assert "it is no JSON" in world.status["humanEvaluation"]["problem"]
    assert world.status["phase"] == "Succeeded"
    world.cluster.pass_time(31 * 86_400)
    assert await world.settle() is None


async def test_a_job_that_asks_nobody_reads_no_config_map() -> None:
    world = World(make_spec())
    asked: list[str] = []

    async def config_map(namespace: str, name: str) -> None:
        asked.append(name)

    world.cluster.config_map = config_map  # type: ignore[method-assign,assignment]
    await world.train()
    await world.stage(X, artifact=ARTIFACT)
    assert world.status["phase"] == "Succeeded" and asked == []
    assert "humanEvaluation" not in world.status
