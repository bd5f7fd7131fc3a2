"""The account of a job's time, over whole lives: second by second, and nothing twice."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from builders import KEY, NOW, PLATFORM, last_words, make_spec
from fake_cluster import FakeCluster

from finetune_operator.api.types import StageName
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.progress import ProgressBoard
from finetune_operator.reconcile import Reconciler
from finetune_operator.reports import read_progress

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT
SPEC = make_spec(
    workers={"ranksPerWorker": None, "gpusPerWorker": 2},
    recovery={"backoffSeconds": {"initial": 5, "max": 5}},
)


class Life:
    """A job and its operator; ``at(n)`` goes to the n-th second of the job's life."""

    def __init__(self) -> None:
        self.world = FakeCluster()
        self.world.add_job(KEY, SPEC)
        self.restart_operator()

    def restart_operator(self) -> None:
        """What it had in memory is lost."""
        self.stores, self.board = Stores(), ProgressBoard(lambda: self.world.now)
        gatherer = Gatherer(self.world, self.stores, self.board, PLATFORM, lambda: self.world.now)
        self.reconciler = Reconciler(self.world, gatherer, lambda _: None)

    async def at(self, second: float) -> None:
        self.world.now = NOW + timedelta(seconds=second)

    async def settle(self) -> dict[str, Any]:
        for _ in range(4):
            self.world.sync(self.stores)
            await self.reconciler.reconcile(KEY)
        return self.goodput()

    def goodput(self) -> dict[str, Any]:
        status = self.world.stored(KEY).status
        account: dict[str, Any] = status["goodput"]
        since = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert status["startTime"] == since
        return account

    def spent(self) -> dict[str, int]:
        return {cause: count for cause, count in self.goodput()["seconds"].items() if count}

    def pods_get_nodes(self) -> None:
        self.world.make_pods()
        self.world.start_pods()

    def tell(
        self, at: float, doing: str, *, attempt: int = 0, step: int = 1, **spent: float
    ) -> None:
        """Rank 0 is asked for its progress."""
        body = {
            "attempt": attempt, "step": step, "steps": 90, "phase": "train",
            "updatedAt": NOW.timestamp() + at, "account": self.account(at, doing, spent),
        }  # fmt: skip
        report = read_progress(json.dumps(body).encode())
        assert report and report.account
        self.board.put(KEY, self.world.stored(KEY).uid, report)

    def account(self, at: float, doing: str, spent: dict[str, float]) -> dict[str, Any]:
        return {"at": NOW.timestamp() + at, "doing": doing, "seconds": spent}

    def end(self, code: int = 0, index: int | None = None, **words: Any) -> None:
        """Running pods end, all or one."""
        for pod in self.world.child_pods(KEY):
            if pod.phase == "Running" and index in (None, pod.index):
                outcome = "failed" if code else "succeeded"
                said = last_words(StageName(pod.stage), outcome, pod.attempt, **words)
                self.world.end_pod(pod.name, code, said)
        self.world.judge_jobs()

    async def prepared(self) -> None:
        """Until second 30: 10 of waiting, 20 of work."""
        await self.at(0)
        await self.settle()
        await self.at(10)
        self.pods_get_nodes()
        await self.at(11)
        await self.settle()
        await self.at(30)
        self.end()
        await self.settle()

    async def training(self) -> None:
        """From second 34 on the gang has its nodes; its first step begins at 50."""
        await self.prepared()
        await self.at(34)
        self.pods_get_nodes()
        await self.at(36)
        await self.settle()
        await self.at(60)
        self.tell(60, "train", init=4, load=6, train=10)
        await self.settle()


@pytest.fixture
def life() -> Life:
    return Life()


async def test_an_undisturbed_life(life: Life) -> None:
    await life.training()
    assert life.spent() == {"queue": 14, "prepare": 20, "init": 16, "productive": 10}
    account = life.goodput()
    assert account["current"] == "productive" and account["percent"] == 100 * 10 // 60
    assert sum(account["attempt"].values()) == 60 - 34
    await life.at(71)
    life.tell(70, "evaluate", init=4, load=6, train=20, step=2)
    await life.settle()
    assert life.spent() == {
        "queue": 14, "prepare": 20, "init": 16, "productive": 20, "evaluation": 1,
    }  # fmt: skip
    await life.at(100)
    done = life.account(
        100, "done", {"init": 4, "load": 6, "train": 32, "evaluate": 12, "checkpoint": 4, "save": 2}
    )
    life.end(account=done)
    await life.at(103)
    account = await life.settle()
    at_work = {
        "prepare": 20, "init": 16, "productive": 32, "evaluation": 12, "checkpoint": 6,
    }  # fmt: skip
    assert life.spent() == {"queue": 17, **at_work}
    assert (account["current"], "attempt" in account) == ("queue", False)
    await life.at(105)
    life.pods_get_nodes()
    await life.settle()
    await life.at(120)
    life.end()
    account = await life.settle()
    assert life.spent() == {"queue": 19, **at_work, "export": 15}
    assert sum(account["seconds"].values()) == 120 and "current" not in account
    assert life.world.stored(KEY).status["phase"] == "Succeeded"
    assert account["until"] == life.world.stored(KEY).status["completionTime"]
    assert account["gpuSeconds"] == (100 - 34) * 4


async def test_a_gang_that_ends_well_pod_by_pod_restarts_nothing(life: Life) -> None:
    await life.training()
    await life.at(80)
    life.end(index=1)
    await life.at(82)  # the second pod still says what it said last
    life.tell(81, "train", step=2, init=4, load=6, train=31)
    await life.settle()
    await life.at(83)
    life.end(index=0, account=life.account(80.5, "train", {"init": 4, "load": 6, "train": 30.5}))
    await life.at(84)
    account = await life.settle()
    assert account["current"] == "queue"
    assert "restart" not in life.spent()


async def test_a_failed_gang(life: Life) -> None:
    """Steps before the last poll count; the step that was cut off, the end and the pause do not."""
    await life.training()
    await life.at(75)
    life.end(139, index=1)
    await life.at(76)
    account = await life.settle()
    assert account["current"] == "restart"
    assert life.spent() == {
        "queue": 14, "prepare": 20, "init": 16, "productive": 10, "restart": 16,
    }  # fmt: skip
    await life.at(78)
    life.world.finish_terminating()
    life.world.judge_jobs()
    await life.settle()
    assert life.spent()["restart"] == 18
    await life.at(84)
    account = await life.settle()
    assert account["current"] == "queue" and life.spent()["restart"] == 24
    await life.at(90)
    life.pods_get_nodes()
    await life.settle()
    await life.at(120)
    life.tell(119, "recompute", attempt=1, step=2, init=4, load=6, recompute=9)
    account = await life.settle()
    assert life.spent() == {
        "queue": 20, "prepare": 20, "init": 36, "productive": 10, "recompute": 10, "restart": 24,
    }  # fmt: skip
    assert account["current"] == "recompute"
    # Pod 1 until second 75; pod 0 was last seen at 76 and left no word; then both again.
    assert account["gpuSeconds"] == 2 * (75 - 34) + 2 * (76 - 34) + 4 * (120 - 90)


async def test_the_words_of_the_end_count_where_no_poll_heard_them(life: Life) -> None:
    await life.training()
    await life.at(75)
    words = life.account(74, "train", {"init": 4, "load": 6, "train": 20, "checkpoint": 4})
    life.end(75, account=words)
    await life.at(76)
    await life.settle()
    assert life.spent() == {
        "queue": 14, "prepare": 20, "init": 16, "productive": 20, "checkpoint": 4, "restart": 2,
    }  # fmt: skip


async def test_an_operator_that_was_away_loses_nothing_that_is_written(life: Life) -> None:
    await life.training()
    life.restart_operator()
    await life.at(80)
    life.end(137, index=1)
    await life.settle()
    assert life.spent() == {"queue": 14, "prepare": 20, "init": 16, "productive": 30}, (
        "as it seemed"
    )
    await life.at(81)
    life.world.finish_terminating()
    life.world.judge_jobs()
    await life.settle()
    assert life.spent()["restart"] == 1


async def test_a_missed_poll_is_made_good_by_the_next(life: Life) -> None:
    await life.training()
    life.restart_operator()
    await life.at(70)
    life.world.edit_job(KEY, ttlSecondsAfterFinished=5)
    await life.settle()
    assert life.spent()["productive"] == 20, "as it seemed"
    await life.at(80)
    life.tell(80, "train", step=2, init=4, load=6, train=14, evaluate=16)
    await life.settle()
    assert life.spent() == {
        "queue": 14, "prepare": 20, "init": 16, "productive": 14, "evaluation": 16,
    }  # fmt: skip


async def test_sleep(life: Life) -> None:
    """Saving is work; from the end of the pods on the job sleeps."""
    await life.training()
    await life.at(70)
    life.world.edit_job(KEY, suspend=True)
    await life.settle()
    life.world.collect_garbage()
    await life.at(73)
    words = life.account(72, "train", {"init": 4, "load": 6, "train": 19, "checkpoint": 3})
    life.end(75, account=words)
    life.world.sync(life.stores)
    life.world.finish_terminating()
    await life.at(74)
    account = await life.settle()
    at_work = {"prepare": 20, "init": 16, "productive": 19, "checkpoint": 3}
    assert account["current"] == "suspended"
    assert life.spent() == {"queue": 14, **at_work, "suspended": 2}
    await life.at(1074)
    life.world.edit_job(KEY, suspend=False)
    await life.settle()
    assert life.spent() == {"queue": 14, **at_work, "suspended": 1002}
    await life.at(1080)
    life.pods_get_nodes()
    account = await life.settle()
    assert life.spent() == {"queue": 20, **at_work, "suspended": 1002}
    assert account["percent"] == 100 * 19 // (1080 - 1002)
    assert account["gpuSeconds"] == 4 * (73 - 34)


async def test_a_gang_that_was_given_back_waits(life: Life) -> None:
    """No failure: nothing was there to run on."""
    life.world.edit_job(KEY, startDeadlineSeconds=60)
    await life.prepared()
    await life.at(95)
    account = await life.settle()
    assert account["current"] == "queue" and life.spent() == {"queue": 75, "prepare": 20}
    life.world.collect_garbage()
    await life.at(130)
    await life.settle()
    assert life.spent() == {"queue": 110, "prepare": 20} and life.world.child_jobs(KEY)


async def test_a_suspension_during_a_pause_begins_when_it_is_wished(life: Life) -> None:
    await life.training()
    await life.at(75)
    life.end(70)
    await life.settle()
    life.world.judge_jobs()
    await life.settle()
    await life.at(78)
    life.world.edit_job(KEY, suspend=True)
    await life.settle()
    assert life.spent()["restart"] == 15 + 3 and "suspended" not in life.spent()
    await life.at(90)
    life.world.edit_job(KEY, suspend=False)
    await life.settle()
    assert life.spent()["restart"] == 18 and life.spent()["suspended"] == 12


@pytest.mark.parametrize(
    "stored",
    [
        {"until": "2026-11-23T12:00:50Z", "seconds": {"queue": 7}},
        {"until": "2026-11-23T12:00:34Z", "seconds": {"queue": 34}, "attempt": {"init": 99}},
        {"until": "soon"},
        7,
    ],
    ids=["a sum that is wrong", "an attempt longer than the job", "no time", "no account"],
)
async def test_whatever_stands_in_the_status_the_sum_is_right(life: Life, stored: Any) -> None:
    await life.prepared()
    life.world.objects["FineTuneJob", *KEY]["status"]["goodput"] = stored
    life.world._touch(life.world.objects["FineTuneJob", *KEY])
    await life.at(60)
    life.pods_get_nodes()
    account = await life.settle()
    assert sum(account["seconds"].values()) == 60


async def test_clocks_that_differ_and_nonsense_change_no_sum(life: Life) -> None:
    await life.training()
    for spent in ({"train": 1e9, "evaluate": 1e9}, {"sleep": 1e10}, {}):
        await life.at(70)
        life.tell(1e6, "?", step=int(sum(spent.values())) % 97, **spent)
        account = await life.settle()
        assert sum(account["seconds"].values()) == 70
        assert min(account["seconds"].values()) >= 0
