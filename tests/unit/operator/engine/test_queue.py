"""The queue keeps client-go's promises: no key twice, no event lost, backoff for failures."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.engine.queue import MAX_DELAY_SECONDS, WorkQueue
from finetune_operator.engine.resync import repeat, work


async def test_a_key_added_twice_is_worked_on_once() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_back_afterwards_and_not_before() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    await queue.get()
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.01)
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), 0.1) == "a"


async def test_of_two_wishes_for_later_the_earlier_counts_in_either_order() -> None:
    for first, second in ((0.01, 5.0), (5.0, 0.01)):
        queue = WorkQueue[str]()
        queue.add_after("a", first)
        queue.add_after("a", second)
        assert await asyncio.wait_for(queue.get(), 0.5) == "a"


async def test_a_timer_that_fired_is_forgotten() -> None:
    queue = WorkQueue[str]()
    queue.add_after("a", 0.001)
    await queue.get()
    queue.done("a")
    queue.add_after("a", 0.001)
    assert await asyncio.wait_for(queue.get(), 0.5) == "a"


async def test_failures_are_spread_and_grow_up_to_the_longest_delay_until_success() -> None:
    queue = WorkQueue[str]()
    delays = [queue.add_failed("a") for _ in range(30)]
    assert 0.1 <= delays[0] <= 0.2
    assert delays[4] > delays[0]
    assert MAX_DELAY_SECONDS / 2 <= delays[-1] <= MAX_DELAY_SECONDS
    queue.succeeded("a")
    assert queue.add_failed("a") <= 0.2


async def test_a_server_that_asks_for_time_gets_it() -> None:
    queue = WorkQueue[str]()
    assert queue.add_failed("a", at_least=30.0) == 30.0


async def test_the_age_is_that_of_the_key_that_waits_longest() -> None:
    now = [100.0]
    queue = WorkQueue[str](clock=lambda: now[0])
    assert queue.oldest_age_seconds == 0
    queue.add("a")
    now[0] = 107.0
    queue.add("b")
    assert queue.oldest_age_seconds == 7.0
    await queue.get()
    assert queue.oldest_age_seconds == 0.0


async def test_workers_never_work_on_the_same_key_at_the_same_time_and_lose_no_event() -> None:
    queue = WorkQueue[int]()
    state = dict.fromkeys(range(5), 0)
    seen = dict(state)
    active: set[int] = set()

    async def reconcile(key: int) -> None:
        assert key not in active
        active.add(key)
        current = state[key]
        await asyncio.sleep(0.001)
        seen[key] = current
        active.remove(key)

    workers = [asyncio.create_task(work(queue, reconcile)) for _ in range(4)]
    for turn in range(200):
        state[turn % 5] += 1
        queue.add(turn % 5)
        if turn % 7 == 0:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    for worker in workers:
        worker.cancel()
    assert seen == state


async def test_a_worker_outlives_a_failing_pass_and_tries_again() -> None:
    queue = WorkQueue[str]()
    tries = []

    async def reconcile(key: str) -> None:
        tries.append(key)
        if len(tries) < 2:
            raise ValueError("first try")

    worker = asyncio.create_task(work(queue, reconcile))
    queue.add("a")
    await asyncio.sleep(0.4)
    worker.cancel()
    assert tries == ["a", "a"]


async def test_a_pass_may_ask_to_be_repeated() -> None:
    queue = WorkQueue[str]()
    passes = []

    async def reconcile(key: str) -> float | None:
        passes.append(key)
        return 0.01 if len(passes) < 3 else None

    worker = asyncio.create_task(work(queue, reconcile))
    queue.add("a")
    await asyncio.sleep(0.2)
    worker.cancel()
    assert len(passes) == 3


async def test_the_resync_goes_on_after_a_failure() -> None:
    calls = 0
    third = asyncio.Event()

    async def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            third.set()
        raise ValueError("no answer")

    task = asyncio.create_task(repeat(action, seconds=0.01, jitter=0.2))
    await asyncio.wait_for(third.wait(), timeout=10)
    task.cancel()
