"""Stores that lag behind, and live reads beside them."""

from __future__ import annotations

from typing import Any

from builders import KEY, last_words
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import Operator, P, T, end_stage, reach_training

from finetune_operator.cluster import Children


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
