"""What a crash after any write leaves, and what the next process makes of it."""

from __future__ import annotations

from builders import KEY, make_spec
from fake_cluster import Crash, FakeCluster
from unit.operator.reconcile.lives import Operator, P, T, X, end_stage, live_a_life, reach_training


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
