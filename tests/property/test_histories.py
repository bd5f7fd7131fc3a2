"""Random histories of a job: users, controllers, crashes and late watches in any order."""

from __future__ import annotations

import asyncio
from typing import Any

from builders import KEY, PLATFORM, last_words, make_spec
from fake_cluster import Crash, FakeCluster
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from finetune_operator.api.types import StageName
from finetune_operator.errors import ClusterError
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.progress import ProgressBoard
from finetune_operator.reconcile import Reconciler


class JobLife(RuleBasedStateMachine):
    """What may happen to one FineTuneJob, and what must hold all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = FakeCluster()
        self.loop = asyncio.new_event_loop()
        self.ended: dict[str, Any] | None = None
        self.numbers: dict[str, int] = {}

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def create(self) -> None:
        self.world.add_job(KEY, make_spec(startDeadlineSeconds=60, activeDeadlineSeconds=100_000))
        self._start_operator()

    def _start_operator(self) -> None:
        self.stores = Stores()
        gatherer = Gatherer(
            self.world, self.stores, ProgressBoard(), PLATFORM, lambda: self.world.now
        )
        self.reconciler = Reconciler(self.world, gatherer, lambda _: None)
        self.world.sync(self.stores)

    # --- the operator ---

    @rule()
    def pass_over(self) -> None:
        try:
            self.loop.run_until_complete(self.reconciler.reconcile(KEY))
        except Crash:
            self._start_operator()
        except ClusterError:
            pass

    @rule(k=st.integers(1, 4))
    def crash_after_the_kth_write_from_now(self, k: int) -> None:
        self.world.crash_after = k

    @rule()
    def watches_catch_up(self) -> None:
        self.world.sync(self.stores)

    @rule()
    def somebody_else_writes_first(self) -> None:
        self.world.stale_reads = 1

    # --- the controllers ---

    @rule()
    def pods_are_made(self) -> None:
        self.world.make_pods()

    @rule()
    def pods_start(self) -> None:
        self.world.start_pods()

    @rule()
    def jobs_are_judged(self) -> None:
        self.world.judge_jobs()

    @rule()
    def terminating_pods_go(self) -> None:
        self.world.collect_garbage()
        self.world.finish_terminating()

    @rule()
    def every_pod_succeeds(self) -> None:
        for pod in self.world.child_pods(KEY):
            if pod.phase == "Running" and not pod.deleting:
                words = last_words(StageName(pod.stage), attempt=pod.attempt, step=1, steps=1)
                self.world.end_pod(pod.name, 0, words)

    @rule(code=st.sampled_from([1, 65, 71, 74, 75, 137]))
    def a_pod_fails(self, code: int) -> None:
        for pod in self.world.child_pods(KEY)[:1]:
            if pod.phase == "Running":
                self.world.end_pod(pod.name, code)

    @rule()
    def a_pod_is_evicted(self) -> None:
        for pod in self.world.child_pods(KEY)[-1:]:
            if pod.phase == "Running":
                self.world.evict_pod(pod.name)

    @rule(count=st.sampled_from([1, 31, 61, 400]))
    def time_passes(self, count: int) -> None:
        self.world.pass_time(count)

    # --- people ---

    @rule(wish=st.booleans())
    def suspend_or_resume(self, wish: bool) -> None:
        if ("FineTuneJob", *KEY) in self.world.objects:
            self.world.edit_job(KEY, suspend=wish)

    @rule()
    @precondition(lambda self: len(self.world.child_jobs(KEY)) > 0)
    def somebody_deletes_a_child_job(self) -> None:
        job = self.world.child_jobs(KEY)[-1]
        del self.world.objects["Job", KEY.namespace, job.name]

    @rule()
    def delete_and_create_again(self) -> None:
        self.world.delete_job(KEY)
        self.world.add_job(KEY, make_spec(startDeadlineSeconds=60))
        self.ended = None
        self.numbers = {}

    # --- what must hold ---

    @invariant()
    def at_most_one_gang_lives(self) -> None:
        if ("FineTuneJob", *KEY) not in self.world.objects:
            return
        uid = self.world.stored(KEY).uid
        live = {pod.job_uid for pod in self.world.child_pods(KEY)
                if pod.owner_uid == uid and not pod.finished}  # fmt: skip
        assert len(live) <= 1, live

    @invariant()
    def numbers_only_grow_one_by_one(self) -> None:
        status = self._status()
        for name in ("prepareAttempt", "attempt", "exportAttempt"):
            number, known = status.get(name), self.numbers.get(name)
            if number is None:
                continue
            assert number in ((0,) if known is None else (known, known + 1)), (name, known, number)
            self.numbers[name] = number

    @invariant()
    def the_end_is_absorbing_and_leaves_no_pod(self) -> None:
        status = self._status()
        if "completionTime" not in status:
            assert self.ended is None
            return
        end = {"phase": status["phase"], "at": status["completionTime"]}
        assert self.ended in (None, end)
        if self.ended is None:
            uid = self.world.stored(KEY).uid
            alive = [p.name for p in self.world.child_pods(KEY)
                     if p.owner_uid == uid and not p.finished]  # fmt: skip
            assert not alive
        self.ended = end

    @invariant()
    def no_job_exists_that_the_status_did_not_announce(self) -> None:
        if ("FineTuneJob", *KEY) not in self.world.objects:
            return
        uid, status = self.world.stored(KEY).uid, self._status()
        last = {"prepare": "prepareAttempt", "train": "attempt", "export": "exportAttempt"}
        for job in self.world.child_jobs(KEY):
            if job.owner_uid == uid:
                assert job.attempt <= status.get(last[job.stage], -1)

    def _status(self) -> dict[str, Any]:
        raw = self.world.objects.get(("FineTuneJob", *KEY))
        status: dict[str, Any] = raw["status"] if raw else {}
        return status


JobLife.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestJobLife = JobLife.TestCase
