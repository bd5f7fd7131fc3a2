"""What the operator may not do is told in the status of the job, and heals with the right."""

from __future__ import annotations

from typing import Any

import pytest
from builders import KEY, main_condition, make_spec, status_in
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import (
    Operator,
    P,
    bring_gang_up,
    end_stage,
    live_a_life,
    reach_training,
)

from finetune_operator.api.types import HumanEvaluation, StageName

GPUS = make_spec(workers={"ranksPerWorker": None, "gpusPerWorker": 1})
TEMPLATED = make_spec(model={"chatTemplate": {"configMapKeyRef": {"name": "t", "key": "jinja"}}})

ASKS_PEOPLE = make_spec(
    evaluation={"generation": {}, "human": {}}, gate={"human": {"minWinRate": "0.6"}}
)


def world_of(spec: dict[str, Any]) -> FakeCluster:
    world = FakeCluster()
    world.add_job(KEY, spec)
    return world


def stalled(world: FakeCluster) -> tuple[str, str]:
    condition = main_condition(world.stored(KEY).status, "Stalled")
    return condition["status"], condition["reason"]


async def come_to_rest(operator: Operator) -> None:
    """After the seconds for which an answer counts; then nothing more is written."""
    operator.gatherer._answers.clear()
    await operator.settle()
    written = len(operator.world.writes)
    await operator.settle()
    assert len(operator.world.writes) == written


@pytest.mark.parametrize(
    ("spec", "verb", "kind"),
    [
        pytest.param(make_spec(), "get", "PersistentVolumeClaim", id="claims cannot be read"),
        pytest.param(TEMPLATED, "get", "ConfigMap", id="ConfigMaps cannot be read"),
        pytest.param(make_spec(), "create", "ConfigMap", id="ConfigMaps cannot be made"),
        pytest.param(make_spec(), "create", "Job", id="Jobs cannot be made"),
    ],
)
async def test_a_job_says_which_right_is_missing_and_begins_with_it(
    spec: dict[str, Any], verb: str, kind: str
) -> None:
    world = world_of(spec)
    world.forbidden = {(verb, kind)}
    operator = Operator(world)
    await come_to_rest(operator)
    status = world.stored(KEY).status
    assert stalled(world) == ("True", "Forbidden")
    assert status["phase"] == "Pending"
    assert status["pendingReason"] == f"the operator may not {verb} {kind}"
    assert [event["type"] for event in operator.events if event["reason"] == "Forbidden"] == [
        "Warning"
    ]
    world.forbidden.clear()
    await come_to_rest(operator)
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]
    assert stalled(world)[0] == "False" and "pendingReason" not in world.stored(KEY).status


async def test_no_gang_starts_without_the_right_to_read_its_budget_and_one_that_runs_goes_on() -> (
    None
):
    world = world_of(GPUS)
    operator = Operator(world)
    await operator.settle()
    end_stage(world, P)
    world.forbidden = {("get", "ConfigMap")}
    await come_to_rest(operator)
    assert stalled(world) == ("True", "Forbidden")
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]
    world.forbidden.clear()
    operator.gatherer._answers.clear()
    await operator.settle()
    await bring_gang_up(world, operator)
    world.forbidden = {("get", "ConfigMap")}
    await come_to_rest(operator)
    assert world.stored(KEY).status["phase"] == "Training"
    assert stalled(world)[0] == "False"


async def test_pods_that_cannot_be_deleted_are_told_and_go_with_the_right(
    world: FakeCluster,
) -> None:
    operator = Operator(world)
    await reach_training(world, operator)
    world.edit_job(KEY, suspend=True)
    world.forbidden = {("delete", "Job")}
    await come_to_rest(operator)
    status = world.stored(KEY).status
    assert stalled(world) == ("True", "Forbidden")
    assert status["pendingReason"] == "the operator may not delete Job"
    assert main_condition(status)["reason"] == "Suspending", "what it wants is still there"
    assert [event["reason"] for event in operator.events].count("Forbidden") == 1
    world.forbidden.clear()
    for _ in range(3):
        await come_to_rest(operator)
        world.collect_garbage()
        world.finish_terminating()
    status = world.stored(KEY).status
    assert status["phase"] == "Suspended"
    assert stalled(world)[0] == "False" and "pendingReason" not in status


async def test_pods_that_do_not_come_up_are_told_without_their_events(world: FakeCluster) -> None:
    operator = Operator(world)
    world.forbidden = {("list", "Event")}
    await operator.settle()
    world.pass_time(60)
    await come_to_rest(operator)
    status = world.stored(KEY).status
    assert main_condition(status)["reason"] == "Forbidden"
    assert status["pendingReason"] == (
        "1 of 1 pods are not up yet, and their Events may say why: the operator may not list Event"
    )
    assert stalled(world)[0] == "False", "they may come up all the same"
    end_stage(world, P)
    await come_to_rest(operator)
    assert "prepared" in world.stored(KEY).status


async def test_children_of_a_finished_job_that_cannot_be_deleted_are_told(
    world: FakeCluster,
) -> None:
    world.edit_job(KEY, ttlSecondsAfterFinished=0)
    operator = Operator(world)
    world.forbidden = {("delete", "Job")}
    await live_a_life(world, operator)
    await come_to_rest(operator)
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert status["pendingReason"] == "the operator may not delete Job"
    assert main_condition(status, "Succeeded")["status"] == "True"
    world.forbidden.clear()
    await come_to_rest(operator)
    assert world.child_jobs(KEY) == ()
    assert "pendingReason" not in world.stored(KEY).status


async def test_ratings_that_cannot_be_read_are_told() -> None:
    held = status_in(
        StageName.EXPORT,
        export_attempt=1,
        human_evaluation=HumanEvaluation(bundle="sha256:ab", items=9, config_map="demo-ratings"),
    )
    world = world_of(ASKS_PEOPLE)
    world.objects["FineTuneJob", *KEY]["status"] = held.wire()
    world.forbidden = {("get", "ConfigMap")}
    await come_to_rest(Operator(world))
    assert stalled(world) == ("True", "RatingsInvalid")
    assert "the operator may not get ConfigMap" in world.stored(KEY).status["pendingReason"]
    world.forbidden.clear()
    await come_to_rest(Operator(world))
    assert stalled(world)[0] == "False"
