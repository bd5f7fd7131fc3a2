"""A CRD that is older than the operator: told once, and nothing is written for ever."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from builders import KEY, main_condition
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import Operator, P, T, X, end_stage, live_a_life, reach_training

from finetune_operator.api.types import FineTuneJobStatus
from finetune_operator.engine.dropped import TRY_AGAIN_AFTER
from finetune_operator.errors import Invalid

NEEDED = frozenset(
    {"observedGeneration", "phase", "conditions", "completionTime", "nextAttemptTime",
     "prepareAttempt", "attempt", "exportAttempt", "prepared", "trained", "exported"}
)  # fmt: skip
"""Without these a job does not go on; all of them were there from the first version on."""
LATER = sorted(
    name
    for field, info in FineTuneJobStatus.model_fields.items()
    if (name := info.alias or field) not in NEEDED
)


def told(operator: Operator) -> list[str]:
    return [event["message"] for event in operator.events if event["reason"] == "CRDOutdated"]


async def rests(operator: Operator) -> bool:
    written = len(operator.world.writes)
    operator.world.pass_time(1.5)
    await operator.settle()
    return len(operator.world.writes) == written


@pytest.mark.parametrize("field", LATER)
async def test_a_job_lives_without_a_field_that_came_later(world: FakeCluster, field: str) -> None:
    world.pruned = {(field,)}
    operator = Operator(world)
    for stage in (P, T, X):
        await operator.settle()
        assert await rests(operator)
        end_stage(world, stage)
    await operator.settle()
    assert await rests(operator)
    status = world.stored(KEY).status
    assert (status["phase"], field in status) == ("Succeeded", False)
    assert len(told(operator)) <= 1


async def test_fields_that_are_told_in_every_status_are_not_written_again_and_again(
    world: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    world.pruned = {("conditions", "observedGeneration"), ("goodput", "seconds", "init")}
    operator = Operator(world)
    with caplog.at_level(logging.WARNING):
        await live_a_life(world, operator)
        assert await rests(operator)
    assert world.stored(KEY).status["phase"] == "Succeeded"
    messages = told(operator)
    assert "drops status.conditions[].observedGeneration" in messages[0]
    assert "upgrade it with `kubectl apply --server-side -f`" in messages[0]
    assert [record.getMessage() for record in caplog.records] == messages
    assert len(messages) == len(set(messages)) <= 2


async def test_a_job_that_needs_the_field_says_so_and_goes_on_with_the_new_crd(
    world: FakeCluster,
) -> None:
    world.pruned = {("exportAttempt",)}
    operator = Operator(world)
    await reach_training(world, operator)
    end_stage(world, T)
    await operator.settle()
    assert await rests(operator)
    assert "drops status.exportAttempt: upgrade it" in world.stored(KEY).status["pendingReason"]
    world.pruned.clear()
    world.pass_time(TRY_AGAIN_AFTER.total_seconds())
    await operator.settle()
    end_stage(world, X)
    await operator.settle()
    status = world.stored(KEY).status
    assert status["phase"] == "Succeeded"
    assert "pendingReason" not in status and main_condition(status)["reason"] == "Succeeded"


async def test_a_status_that_the_crd_refuses_is_told_of(
    world: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(job: Any, status: Any) -> Any:
        raise Invalid('status.phase: Unsupported value: "Preparing"')

    operator = Operator(world)
    with monkeypatch.context() as refusing:
        refusing.setattr(world, "write_status", refuse)
        for _ in range(2):
            with pytest.raises(Invalid):
                await operator.settle()
    names = {event["metadata"]["name"] for event in operator.events}
    (message,) = set(told(operator))
    assert len(names) == 1, "the API server keeps one Event of a name"
    assert "refuses the status: upgrade it" in message and "Unsupported value" in message
    await operator.settle()
    assert [job.name for job in world.child_jobs(KEY)] == ["demo-p0"]
