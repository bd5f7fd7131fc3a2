"""Whole lives of a job: what is written, in which order, and what is told."""

from __future__ import annotations

from typing import Any

import pytest
from builders import KEY, make_spec
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import Operator, P, T, X, end_stage, live_a_life

from finetune_operator.api.types import MAX_EVENTS
from finetune_operator.plan import plan_training


async def test_a_job_goes_through_its_stages_and_ends_with_its_numbers(world: FakeCluster) -> None:
    operator = Operator(world)
    await live_a_life(world, operator)
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert status["metrics"] == {"loss": "1.25", "evalLoss": "1.5"}
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0", "demo-a0", "demo-x0"]
    reasons = [event["reason"] for event in operator.events]
    assert reasons == ["Accepted", "Preparing", "Starting", "Training", "Exporting", "Succeeded"]


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
