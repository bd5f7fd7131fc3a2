"""What is in the way of a job is told, and heals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from builders import KEY, main_condition, make_spec
from fake_cluster import FakeCluster
from unit.operator.reconcile.lives import Operator

from finetune_operator.engine.store import Key
from finetune_operator.errors import Refused, Unavailable
from finetune_operator.policies.validity import Claim


async def test_a_refusal_is_told_once_tried_again_and_heals(world: FakeCluster) -> None:
    operator = Operator(world)
    world.refuse = Refused("exceeded quota", reason="QuotaExceeded")
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


async def test_the_claim_without_a_volume_is_named_among_those_that_a_pod_mounts(
    world: FakeCluster,
) -> None:
    world.claims["models"] = Claim(("ReadWriteMany",), bound=False)
    operator = Operator(world)
    world.room = 0
    await operator.settle()
    world.make_pods()
    (pod,) = (raw for (kind, *_), raw in world.objects.items() if kind == "Pod")
    (condition,) = pod["status"]["conditions"]
    condition["message"] = "pod has unbound immediate PersistentVolumeClaims"
    world.pass_time(30)
    await operator.settle()
    reason = world.stored(KEY).status["pendingReason"]
    assert reason.endswith("PersistentVolumeClaims; look at PersistentVolumeClaim models")


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
