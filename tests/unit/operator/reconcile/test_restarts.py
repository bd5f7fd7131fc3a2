"""Failures and losses of pods: another attempt, and who pays for it."""

from __future__ import annotations

import pytest
from builders import KEY, last_words, main_condition
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import (
    Operator,
    P,
    T,
    X,
    bring_gang_up,
    end_stage,
    lose_gang,
    reach_training,
)

from finetune_operator.api.types import MAX_EVENTS


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
