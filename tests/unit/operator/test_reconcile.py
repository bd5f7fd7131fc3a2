"""Whole passes over a small world: what is written, in which order, and what a crash leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from builders import KEY, PLATFORM, last_words, main_condition, make_spec
from fake_cluster import Crash, FakeCluster

from finetune_operator.api.types import MAX_EVENTS, StageName
from finetune_operator.cluster import Children
from finetune_operator.engine.store import Key
from finetune_operator.errors import NotThere, Refused, Stale, Unavailable
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.plan import plan_training
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


@pytest.fixture
def world() -> FakeCluster:
    world = FakeCluster()
    world.add_job(KEY, make_spec())
    return world


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


async def test_a_job_goes_through_its_stages_and_ends_with_its_numbers(world: FakeCluster) -> None:
    operator = Operator(world)
    await live_a_life(world, operator)
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert status["metrics"] == {"loss": "1.25", "evalLoss": "1.5"}
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0", "demo-a0", "demo-x0"]
    reasons = [event["reason"] for event in operator.events]
    assert reasons == ["Accepted", "Preparing", "Starting", "Training", "Exporting", "Succeeded"]


async def test_no_number_is_lost_where_the_watch_of_the_pods_is_behind(world: FakeCluster) -> None:
    operator = Operator(world)
    for stage, number in ((P, "data"), (T, "progress")):
        await operator.settle()
        world.make_pods()
        world.start_pods()
        await operator.settle()
        end_stage(world, stage)
        world.sync(operator.stores, pods_too=False)
        await operator.reconciler.reconcile(KEY)
        assert number in world.stored(KEY).status, f"what {stage.value} said"


async def test_an_undisturbed_life_costs_six_status_writes_and_five_creations(
    world: FakeCluster,
) -> None:
    await live_a_life(world, Operator(world))
    verbs = [(verb, kind) for verb, kind, _ in world.writes]
    assert verbs.count(("PUT", "FineTuneJob")) == 6
    assert sorted(kind for verb, kind in verbs if verb == "POST") == [
        *("ConfigMap", "Job", "Job", "Job", "Service"),
    ]
    assert len(verbs) == 11


async def test_the_attempt_is_written_before_its_job_is_created(world: FakeCluster) -> None:
    await Operator(world).settle()
    assert world.writes == [
        ("PUT", "FineTuneJob", "demo"),
        ("POST", "ConfigMap", "demo-run"),
        ("POST", "Job", "demo-p0"),
    ]


async def test_a_pass_over_a_job_at_rest_writes_nothing(world: FakeCluster) -> None:
    operator = Operator(world)
    await operator.settle()
    before = list(world.writes)
    for _ in range(5):
        world.pass_time(60)
        await operator.settle()
    await Operator(world).settle()
    assert world.writes == before


async def history(world: FakeCluster) -> list[tuple[str, str, str]]:
    await live_a_life(world, Operator(world))
    return world.writes


async def test_a_crash_after_any_write_leads_to_the_same_end_without_a_second_gang() -> None:
    def fresh() -> FakeCluster:
        world = FakeCluster()
        world.add_job(KEY, make_spec())
        return world

    undisturbed = await history(fresh())
    for k in range(1, len(undisturbed) + 1):
        world = fresh()
        world.crash_after = k
        operator = Operator(world)
        for stage in (P, T, X):
            for turn in range(3):
                try:
                    await operator.settle()
                except Crash:
                    operator = Operator(world)
                    await operator.settle()
                if turn == 0:
                    world.make_pods()
                    world.start_pods()
                if turn == 1:
                    end_stage(world, stage)
        assert world.stored(KEY).status["phase"] == "Succeeded", f"crash after write {k}"
        assert sorted(world.writes) == sorted(undisturbed), f"crash after write {k}"


async def test_somebody_faster_makes_the_pass_start_again(world: FakeCluster) -> None:
    world.stale_reads = 2
    await Operator(world).settle()
    assert world.stored(KEY).status["prepareAttempt"] == 0


async def test_a_store_that_lags_behind_creates_nothing_twice(world: FakeCluster) -> None:
    operator = Operator(world)
    await operator.settle()
    late = Operator(world)
    late.stores.jobs.put(world.stored(KEY))  # it has seen the job, but not its children
    await late.reconciler.reconcile(KEY)
    assert [name for verb, kind, name in world.writes if kind == "Job"] == ["demo-p0"]


async def test_a_store_that_lags_behind_declares_no_living_gang_dead(world: FakeCluster) -> None:
    operator = Operator(world)
    await operator.settle()
    end_stage(world, P)
    await operator.settle()
    world.make_pods()
    world.start_pods()
    await operator.settle()
    assert world.stored(KEY).status["phase"] == "Training"
    late = Operator(world)
    late.stores.jobs.put(world.stored(KEY))
    await late.reconciler.reconcile(KEY)
    assert world.stored(KEY).status["phase"] == "Training"


async def test_a_pod_that_the_watch_knew_before_the_live_read_is_not_lost(
    world: FakeCluster,
) -> None:
    """A live read is a moment old when it arrives; what the watch told meanwhile is newer."""
    operator = Operator(world)
    await operator.settle()
    world.make_pods()
    world.sync(operator.stores)
    real = world.children

    async def late(key: Any) -> Any:
        return Children((), (), 0)

    world.children = late  # type: ignore[method-assign]
    facts = await operator.gatherer.facts(KEY, None)
    assert facts is not None
    await operator.gatherer.confirmed(facts, job_is_fresh=True)
    world.children = real  # type: ignore[method-assign]
    assert [pod.name for pod in operator.stores.child_pods.of(KEY)] == ["demo-p0-0"]


async def test_a_live_read_keeps_the_last_words_of_a_pod_that_is_gone_soon_after(
    world: FakeCluster,
) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    facts = await operator.gatherer.facts(KEY, None)
    assert facts is not None
    world.end_pod("demo-a0-1", 71, last_words(T, "failed", failure={"class": "CudaOom"}))
    await operator.gatherer.confirmed(facts, job_is_fresh=False)
    del world.objects["Pod", KEY.namespace, "demo-a0-1"]
    world.sync(operator.stores)  # the watch was cut meanwhile, so it never saw the end
    later = await operator.gatherer.facts(KEY, None)
    assert later is not None and [pod.name for pod in later.stage.pods] == ["demo-a0-0"]
    (words,) = later.observed.last_words
    assert (words.name, words.terminated and words.terminated.exit_code) == ("demo-a0-1", 71)


async def test_a_refusal_is_told_once_tried_again_and_heals(world: FakeCluster) -> None:
    operator = Operator(world)
    world.refuse = Refused("exceeded quota", reason="QuotaExceeded", kind="Job", name="demo-p0")
    again = await operator.settle()
    status = world.stored(KEY).status
    assert status["pendingReason"] == "exceeded quota"
    assert main_condition(status)["reason"] == "QuotaExceeded"
    assert again == 20.0
    writes = len(world.writes)
    await operator.settle()
    assert len(world.writes) == writes
    world.refuse = None
    await operator.settle()
    status = world.stored(KEY).status
    assert "pendingReason" not in status
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]


@pytest.mark.parametrize(
    ("kind", "name"), [("Job", "demo-p0"), ("ConfigMap", "demo-run")], ids=["a Job", "a ConfigMap"]
)
async def test_a_foreign_object_of_our_name_is_never_taken_over(
    world: FakeCluster, kind: str, name: str
) -> None:
    meta = {"namespace": KEY.namespace, "name": name, "labels": {}}
    foreign = world.add({"kind": kind, "metadata": meta, "data": {"theirs": "1"}})
    await Operator(world).settle()
    status = world.stored(KEY).status
    assert main_condition(status, "Stalled")["reason"] == "NameConflict"
    assert name in status["pendingReason"]
    assert foreign["data"] == {"theirs": "1"}
    del world.objects[kind, KEY.namespace, name]
    await Operator(world).settle()
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]


async def test_a_recreated_job_waits_for_the_children_of_its_predecessor(
    world: FakeCluster,
) -> None:
    await Operator(world).settle()
    world.make_pods()
    world.start_pods()
    world.delete_job(KEY)
    world.add_job(KEY, make_spec())
    operator = Operator(world)
    await operator.settle()
    status = world.stored(KEY).status
    assert main_condition(status)["reason"] == "PreviousJobTerminating"
    assert "demo-p0" in status["pendingReason"]
    for _ in range(3):
        world.collect_garbage()
        world.finish_terminating()
    await operator.settle()
    (job,) = world.child_jobs(KEY)
    assert job.owner_uid == world.stored(KEY).uid


async def test_suspending_at_every_stage_and_resuming_takes_the_next_number(
    world: FakeCluster,
) -> None:
    operator = Operator(world)
    for stage, letter in ((P, "p"), (T, "a"), (X, "x")):
        await operator.settle()
        world.make_pods()
        world.start_pods()
        await operator.settle()
        world.edit_job(KEY, suspend=True)
        await operator.settle()
        assert world.stored(KEY).status["phase"] != "Suspended", "its pods still run"
        for _ in range(3):
            world.collect_garbage()
            world.finish_terminating()
        await operator.settle()
        assert world.stored(KEY).status["phase"] == "Suspended"
        world.pass_time(100)
        world.edit_job(KEY, suspend=False)
        await operator.settle()
        assert any(job.name == f"demo-{letter}1" for job in world.child_jobs(KEY))
        end_stage(world, stage)
    await operator.settle()
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert status["suspendedSeconds"] == 300


async def test_an_evicted_export_pod_is_replaced_and_the_job_succeeds(world: FakeCluster) -> None:
    operator = Operator(world)
    for stage in (P, T):
        await operator.settle()
        end_stage(world, stage)
    await operator.settle()
    world.make_pods()
    world.start_pods()
    await operator.settle()
    world.evict_pod("demo-x0-0")
    world.judge_jobs()
    await operator.settle()
    assert world.stored(KEY).status["failure"]["class"] == "Evicted"
    world.pass_time(6)
    await operator.settle()
    end_stage(world, X)
    await operator.settle()
    status = world.stored(KEY).status
    assert (status["phase"], status["exportAttempt"]) == ("Succeeded", 1)


async def test_a_failed_gang_is_terminal_only_when_its_last_pod_is_gone(world: FakeCluster) -> None:
    world.edit_job(KEY, recovery={"maxRestarts": 0})
    operator = Operator(world)
    await operator.settle()
    end_stage(world, P)
    await operator.settle()
    world.make_pods()
    world.start_pods()
    await operator.settle()
    world.end_pod("demo-a0-1", 71, last_words(T, "failed", failure={"message": "out of memory"}))
    world.judge_jobs()
    await operator.settle()
    status = world.stored(KEY).status
    assert "completionTime" not in status
    assert status["failure"]["class"] == "CudaOom"
    world.finish_terminating()
    world.judge_jobs()
    await operator.settle()
    status = world.stored(KEY).status
    assert status["phase"] == "Failed"
    assert status["failure"]["pod"] == "demo-a0-1"


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


async def test_a_failed_gang_is_started_again_after_its_pods_are_gone_and_a_pause(
    world: FakeCluster,
) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    world.end_pod("demo-a0-1", 70, last_words(T, "failed", failure={"step": 7}))
    world.judge_jobs()
    await operator.settle()
    assert world.stored(KEY).status["phase"] == "Restarting"
    world.pass_time(80)
    await operator.settle()
    assert "restarts" not in world.stored(KEY).status, "a survivor still holds its GPU"
    world.finish_terminating()
    world.judge_jobs()
    again = await operator.settle()
    status = world.stored(KEY).status
    assert (again, status["attempt"]) == (5.0, 0)
    assert status["restarts"] == {"program": 1, "infrastructure": 0, "total": 1}
    world.pass_time(5)
    await operator.settle()
    await bring_gang_up(world, operator)
    status = world.stored(KEY).status
    assert (status["phase"], status["attempt"]) == ("Training", 1)
    assert "failure" not in status and "pendingReason" not in status
    (past,) = status["pastFailures"]
    assert (past["class"], past["attempt"], past["step"]) == ("Internal", 0, 7)
    end_stage(world, T)
    await operator.settle()
    end_stage(world, X)
    await operator.settle()
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert status["restarts"] == {"program": 1, "infrastructure": 0, "total": 1}


async def test_a_lost_node_is_named_before_anything_begins_beside_its_pod(
    world: FakeCluster,
) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    node = world.objects["Pod", KEY.namespace, "demo-a0-1"]["spec"]["nodeName"]
    world.node_stops_answering(node)
    again = await operator.settle()
    assert main_condition(world.stored(KEY).status)["reason"] == "NodeUnreachable"
    assert again == pytest.approx(60.1)
    world.pass_time(60)
    world.writes.clear()
    await operator.settle()
    status = world.stored(KEY).status
    assert (status["phase"], status["failure"]["class"]) == ("Restarting", "NodeLost")
    assert [lost["pods"] for lost in status["lostNodes"]] == [["demo-a0-1"]]
    assert world.writes == [("PUT", "FineTuneJob", "demo"), ("DELETE", "Job", "demo-a0")]
    world.collect_garbage()  # and no pause: nobody failed
    await operator.settle()
    assert world.stored(KEY).status["attempt"] == 0, "the survivor still holds its GPU"
    world.finish_terminating()
    await operator.settle()
    await bring_gang_up(world, operator)
    status = world.stored(KEY).status
    assert (status["phase"], status["attempt"]) == ("Training", 1)
    assert [lost["name"] for lost in status["lostNodes"]] == [node]
    assert status["restarts"] == {"program": 0, "infrastructure": 1, "total": 1}

    world.nodes_come_back()
    world.finish_terminating()
    world.writes.clear()
    await operator.settle()
    status = world.stored(KEY).status
    assert (status["phase"], status["attempt"]) == ("Training", 1)
    assert "lostNodes" not in status
    assert world.writes == [("PUT", "FineTuneJob", "demo")]


async def test_a_gang_that_fails_for_ever_spends_its_budget_and_ends(world: FakeCluster) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    for attempt in range(3):
        await lose_gang(world, operator, attempt, step=attempt)
        assert world.stored(KEY).status["phase"] == "Restarting"
        world.pass_time(300)
        await operator.settle()
        await bring_gang_up(world, operator)
    await lose_gang(world, operator, 3, step=3)
    status = world.stored(KEY).status
    assert status["phase"] == "Failed"
    assert main_condition(status, "Failed")["reason"] == "RestartsExhausted"
    assert [past["attempt"] for past in status["pastFailures"]] == [0, 1, 2]
    assert status["failure"]["attempt"] == status["attempt"] == 3
    assert status["restarts"]["total"] == 3
    reasons = [event["reason"] for event in operator.events]
    assert reasons[-4:] == ["Restarting"] * 3 + ["RestartsExhausted"], "each is told"
    assert len(reasons) <= MAX_EVENTS


async def test_a_crash_after_any_write_of_a_restart_spends_no_budget_twice() -> None:
    async def through_a_restart(crash_after: int | None) -> FakeCluster:
        world = FakeCluster()
        world.add_job(KEY, make_spec())
        await reach_training(world, Operator(world))
        world.crash_after = crash_after
        operator = Operator(world)
        for _ in range(12):
            try:
                await operator.settle()
                running = {pod.name for pod in world.child_pods(KEY) if pod.phase == "Running"}
                if "demo-a0-1" in running:
                    world.end_pod("demo-a0-1", 71)
                world.judge_jobs()
                world.finish_terminating()
                world.make_pods()
                world.start_pods()
                world.pass_time(5)
            except Crash:
                operator = Operator(world)
        return world

    undisturbed = await through_a_restart(None)
    expected = undisturbed.stored(KEY).status
    assert (expected["phase"], expected["attempt"]) == ("Training", 1)
    for k in range(1, 8):
        status = (await through_a_restart(k)).stored(KEY).status
        assert (status["phase"], status["attempt"]) == ("Training", 1), f"crash after write {k}"
        assert status["restarts"] == expected["restarts"], f"crash after write {k}"
        assert len(status["pastFailures"]) == 1, f"crash after write {k}"


async def test_a_store_that_lags_behind_spends_no_budget(world: FakeCluster) -> None:
    """It knows that attempt 0 has a Job and does not see it: that is no vanished Job."""
    operator = Operator(world)
    await reach_training(world, operator)
    assert "jobUID" in world.stored(KEY).status
    late = Operator(world)
    late.stores.jobs.put(world.stored(KEY))
    await late.reconciler.reconcile(KEY)
    status = world.stored(KEY).status
    assert "restarts" not in status and status["phase"] == "Training"


async def test_a_job_deleted_by_hand_is_paid_by_the_infrastructure(world: FakeCluster) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    del world.objects["Job", KEY.namespace, "demo-a0"]
    await operator.settle()
    assert "restarts" not in world.stored(KEY).status, "its pods still run"
    world.collect_garbage()
    world.finish_terminating()
    await operator.settle()
    status = world.stored(KEY).status
    assert status["restarts"] == {"program": 0, "infrastructure": 1, "total": 1}
    assert status["pastFailures"][0]["class"] == "JobVanished"
    world.pass_time(5)
    await operator.settle()
    await bring_gang_up(world, operator)
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0", "demo-a1"]
    assert world.stored(KEY).status["phase"] == "Training"


async def test_suspending_during_the_pause_wins_and_costs_nothing_more(world: FakeCluster) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    await lose_gang(world, operator, 0, step=7)
    world.edit_job(KEY, suspend=True)
    await operator.settle()
    world.pass_time(1000)
    await operator.settle()
    assert world.stored(KEY).status["phase"] == "Suspended"
    world.edit_job(KEY, suspend=False)
    await operator.settle()
    await bring_gang_up(world, operator)
    status = world.stored(KEY).status
    assert (status["phase"], status["attempt"]) == ("Training", 1)
    assert status["restarts"]["total"] == 1


async def test_children_are_removed_when_their_time_is_over_and_the_job_stays() -> None:
    world = FakeCluster()
    world.add_job(KEY, make_spec(ttlSecondsAfterFinished=60))
    operator = Operator(world)
    await live_a_life(world, operator)
    assert 0 < (await operator.settle() or 0) <= 60
    world.pass_time(61)
    await operator.settle()
    world.collect_garbage()
    await operator.settle()
    assert {kind for kind, *_ in world.objects} == {"FineTuneJob"}
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded" and "childrenRemovedTime" in status
    writes = len(world.writes)
    await operator.settle()
    assert len(world.writes) == writes


async def test_a_deleted_job_is_forgotten(world: FakeCluster) -> None:
    operator = Operator(world)
    await operator.settle()
    world.delete_job(KEY)
    writes = len(world.writes)
    assert await operator.settle() is None
    assert len(world.writes) == writes


async def test_events_are_few_even_if_the_user_toggles_for_ever_and_operators_come_and_go(
    world: FakeCluster,
) -> None:
    told: list[Any] = []
    for turn in range(20):
        operator = Operator(world, told)  # it remembers nothing
        world.edit_job(KEY, suspend=turn % 2 == 0)
        await operator.settle()
        for _ in range(3):
            world.collect_garbage()
            world.finish_terminating()
        await operator.settle()
    assert len(told) <= MAX_EVENTS - 1
    for stage in (P, T, X):
        await operator.settle()
        end_stage(world, stage)
    await operator.settle()
    assert len(told) <= MAX_EVENTS
    assert told[-1]["reason"] == "Succeeded"
    assert world.stored(KEY).status["events"] == [event["reason"] for event in told]


async def test_a_live_read_without_news_is_not_decided_on_again(world: FakeCluster) -> None:
    operator = Operator(world)
    world.sync(operator.stores)
    facts = await operator.gatherer.facts(KEY, None)
    assert facts is not None
    assert await operator.gatherer.confirmed(facts, job_is_fresh=False) is facts
    world.edit_job(KEY, suspend=True)
    newer = await operator.gatherer.confirmed(facts, job_is_fresh=False)
    assert newer is not None and newer.spec.suspend
    labels = {"finetune.dev/job": KEY.name}
    meta = {"namespace": KEY.namespace, "name": "theirs", "labels": labels}
    world.add({"kind": "Job", "metadata": meta, "spec": {}})
    newest = await operator.gatherer.confirmed(newer, job_is_fresh=False)
    assert newest is not None and [job.name for job in newest.observed.jobs] == ["theirs"]


async def test_a_plan_is_made_once_for_a_job(
    world: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def counted(*arguments: Any) -> Any:
        made.append(plan_training(*arguments))
        return made[-1]

    monkeypatch.setattr("finetune_operator.gather.plan_training", counted)
    operator = Operator(world)
    await live_a_life(world, operator)
    assert [plan.resolved.steps for plan in made] == [90]


async def test_jobs_that_ask_for_the_same_claim_share_the_answer_but_not_an_error(
    world: FakeCluster,
) -> None:
    keys = [Key(KEY.namespace, name) for name in ("one", "two", "three")]
    for key in keys:
        world.add_job(key, make_spec())
    asked: list[str] = []
    real = world.claim

    async def slow(namespace: str, name: str) -> Any:
        asked.append(name)
        await asyncio.sleep(0)
        if len(asked) == 1:
            raise Unavailable("no answer")
        return await real(namespace, name)

    world.claim = slow  # type: ignore[method-assign]
    operator = Operator(world)
    world.sync(operator.stores)
    gather = [operator.gatherer.facts(key, None) for key in keys]
    results = await asyncio.gather(*gather, return_exceptions=True)
    assert {type(result) for result in results} == {Unavailable}
    gather = [operator.gatherer.facts(key, None) for key in keys]
    assert all(await asyncio.gather(*gather))
    assert asked == ["datasets", "datasets", "models", "work"]


async def test_a_missing_claim_is_told_and_heals(world: FakeCluster) -> None:
    operator = Operator(world)
    real = world.claim

    async def missing(namespace: str, name: str) -> Any:
        return None

    world.claim = missing  # type: ignore[method-assign]
    assert await operator.settle() == 15.0
    status = world.stored(KEY).status
    assert main_condition(status, "Stalled")["status"] == "True"
    assert "PersistentVolumeClaim" in status["pendingReason"]
    assert world.child_jobs(KEY) == ()
    world.claim = real  # type: ignore[method-assign]
    await Operator(world).settle()
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]
    assert "pendingReason" not in world.stored(KEY).status


async def test_a_spoilt_status_does_not_stop_the_operator(world: FakeCluster) -> None:
    raw = world.objects["FineTuneJob", KEY.namespace, KEY.name]
    raw["status"] = {"observedGeneration": "x", "conditions": [{"no": "type"}], "phase": 7}
    await Operator(world).settle()
    assert world.stored(KEY).status["phase"] == "Pending"
