"""Random histories of a job: users, controllers, crashes and late watches in any order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from builders import KEY, PLATFORM, last_words, main_condition, make_spec
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
from finetune_operator.reports import read_progress

MAX_RESTARTS, MAX_INFRASTRUCTURE_RESTARTS = 2, 3
SPEC = make_spec(
    startDeadlineSeconds=60,
    workers={"ranksPerWorker": None, "gpusPerWorker": 2},
    recovery={
        "maxRestarts": MAX_RESTARTS,
        "maxInfrastructureRestarts": MAX_INFRASTRUCTURE_RESTARTS,
        "backoffSeconds": {"initial": 10, "max": 60},
        "nodeLostAfterSeconds": 30,
    },
)
COUNTERS = {"prepare": "prepareAttempt", "train": "attempt", "export": "exportAttempt"}
LETTERS = {"prepare": "p", "train": "a", "export": "x"}


class Ledger:
    """A second account of every restart, kept from the statuses as they are written."""

    def __init__(self, world: FakeCluster) -> None:
        self.paid: list[tuple[str, int]] = []
        """Stage and attempt of every restart that a budget paid for."""
        self.free: set[tuple[str, int]] = set()
        """Those that the user, a gang deadline or a lack of memory ended: they cost nothing."""
        self.past: list[tuple[str, int]] = []
        """Stage and attempt of every failure that was followed by a restart."""
        self.given_up: set[str] = set()
        """Pods that a status named as lost with their nodes."""
        self._world = world
        self._last: Mapping[str, Any] = {}
        self._write = world.write_status
        world.write_status = self.write_status  # type: ignore[method-assign]

    async def write_status(self, job: Any, status: Mapping[str, Any]) -> Any:
        """The real write; what it says is entered although the operator may crash right then."""
        before = len(self._world.writes)
        try:
            return await self._write(job, status)
        finally:
            if len(self._world.writes) > before:
                self._enter(status)

    def _enter(self, status: Mapping[str, Any]) -> None:
        last, self._last = self._last, status
        self.given_up |= _named(status)
        old, new = _restarts(last), _restarts(status)
        grown = tuple(b - a for a, b in zip(old, new, strict=True))
        assert grown in ((0, 0), (1, 0), (0, 1)), (old, new)
        assert new[0] <= MAX_RESTARTS and new[1] <= MAX_INFRASTRUCTURE_RESTARTS
        for newest in status.get("pastFailures", ())[-1:]:
            failure = newest["stage"], newest["attempt"]
            if [failure] == self.past[-1:]:
                continue
            self.past.append(failure)
            if "budget" not in newest:
                self.free.add(failure)
        if any(grown):
            newest = status["pastFailures"][-1]
            stage, number = newest["stage"], newest["attempt"]
            assert newest["budget"] == ("Program" if grown[0] else "Infrastructure")
            assert (stage, number) not in self.paid, "the same end was paid for twice"
            self.paid.append((stage, number))
            self._ended(f"{KEY.name}-{LETTERS[stage]}{number}", status)
        self._every_next_attempt_has_a_cause(last, status)

    def _ended(self, name: str, status: Mapping[str, Any]) -> None:
        """A restart is paid only for a gang that really ended, or lost a node: no living one is
        given up."""
        job = self._world.objects.get(("Job", KEY.namespace, name))
        if job is not None and not any(pod.startswith(name) for pod in _named(status)):
            conditions = job.get("status", {}).get("conditions", [])
            failed = any(condition["type"] == "Failed" for condition in conditions)
            uid = job["metadata"]["uid"]
            pods = [pod.phase for pod in self._world.child_pods(KEY) if pod.job_uid == uid]
            all_over = len(pods) == job["spec"]["parallelism"] and {*pods} <= {
                "Failed",
                "Succeeded",
            }
            assert failed or (all_over and "Failed" in pods), name

    def _every_next_attempt_has_a_cause(
        self, last: Mapping[str, Any], status: Mapping[str, Any]
    ) -> None:
        reason = main_condition(status)["reason"]
        for stage, counter in COUNTERS.items():
            number = status.get(counter)
            if number is not None and reason in ("Resumed", "StartTimeout", "Resized"):
                self.free.add((stage, number))
            if number and number != last.get(counter):
                assert {(stage, number - 1)} & {*self.paid, *self.free}, (stage, number)


def _named(status: Mapping[str, Any]) -> set[str]:
    return {pod for node in status.get("lostNodes", ()) for pod in node["pods"]}


def _restarts(status: Mapping[str, Any]) -> tuple[int, int]:
    counted = status.get("restarts", {})
    return counted.get("program", 0), counted.get("infrastructure", 0)


class JobLife(RuleBasedStateMachine):
    """What may happen to one FineTuneJob, and what must hold all the time."""

    spec: Mapping[str, Any] = SPEC
    most_gpus = 2 * 2

    def __init__(self) -> None:
        super().__init__()
        self.world = FakeCluster()
        self.loop = asyncio.new_event_loop()
        self.ended: dict[str, Any] | None = None
        self.numbers: dict[str, int] = {}
        self.gpu_seconds = 0

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
        finally:
            self.loop.close()

    @initialize(stages=st.sampled_from([0, 1, 1, 1, 2]))
    def create(self, stages: int) -> None:
        """``stages`` are done before anything happens: chance alone hardly ever gets that far."""
        self.world.add_job(KEY, {**self.spec, "activeDeadlineSeconds": 100_000})
        self.ledger = Ledger(self.world)
        self._start_operator()
        for _ in range(stages):
            self.all_goes_well_for_a_while()
            self.a_stage_is_done()
        if stages:
            self.all_goes_well_for_a_while()

    def _comes_to_rest(self) -> None:
        """Nothing bad happens any more: the job ends, and then nothing is written. But a node that
        does not answer never will, and of running pods one is always lost."""
        self.a_node_stops_answering(0)
        self.world.crash_after, self.world.stale_reads = None, 0
        self.world.forbidden.clear()
        self.suspend_or_resume(False)
        for _ in range(40):
            for step in (self.watches_catch_up, self.pass_over, self.pods_are_made,
                         self.pods_start, self.every_pod_succeeds, self.jobs_are_judged,
                         self.silent_nodes_are_evicted, self.terminating_pods_go):  # fmt: skip
                step()
                self._check()
            self.time_passes(61)
            if "completionTime" in self._status():
                break
        else:
            raise AssertionError(f"no end: {self._status()}")
        for _ in range(3):
            self.watches_catch_up()
            self.pass_over()
            self.terminating_pods_go()
        writes = len(self.world.writes)
        self.time_passes(400)
        self.watches_catch_up()
        self.pass_over()
        assert len(self.world.writes) == writes

    def _check(self) -> None:
        self.at_most_one_gang_lives()
        self.numbers_only_grow_one_by_one()
        self.the_end_is_absorbing_and_leaves_no_pod()
        self.counters_are_exact()
        self.time_is_accounted_for_to_the_second()

    def _start_operator(self) -> None:
        self.stores, self.board = Stores(), ProgressBoard(lambda: self.world.now)
        gatherer = Gatherer(self.world, self.stores, self.board, PLATFORM, lambda: self.world.now)
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

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        """Up to pods that run."""
        for step in (self.watches_catch_up, self.pass_over, self.watches_catch_up,
                     self.pods_are_made, self.pods_start, self.watches_catch_up,
                     self.pass_over):  # fmt: skip
            step()
            self._check()

    @rule()
    def a_stage_is_done(self) -> None:
        for step in (self.every_pod_succeeds, self.jobs_are_judged, self.watches_catch_up,
                     self.pass_over):  # fmt: skip
            step()
            self._check()

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
            if pod.phase == "Running" and not pod.deleting and not pod.silent:
                words = last_words(StageName(pod.stage), attempt=pod.attempt, step=1, steps=1)
                self.world.end_pod(pod.name, 0, words)

    @rule(
        code=st.sampled_from([1, 65, 70, 71, 74, 75, 137]),
        step=st.none() | st.integers(0, 3),
        which=st.integers(0, 2),
    )
    def a_pod_fails(self, code: int, step: int | None, which: int) -> None:
        pods = self.world.child_pods(KEY)
        running = [pod for pod in pods if pod.phase == "Running" and not pod.silent]
        for pod in running[which : which + 1]:
            failure = {} if step is None else {"failure": {"step": step}}
            words = last_words(StageName(pod.stage), "failed", pod.attempt, **failure)
            self.world.end_pod(pod.name, code, words)

    @rule()
    def a_pod_is_deleted_by_force(self) -> None:
        for pod in self.world.child_pods(KEY)[-1:]:
            if pod.phase in ("Pending", "Running"):
                self.world.lose_pod(pod.name)

    @rule()
    def a_pod_is_evicted(self) -> None:
        for pod in self.world.child_pods(KEY)[-1:]:
            if pod.phase == "Running" and not pod.silent:
                self.world.evict_pod(pod.name)

    @rule(
        ago=st.sampled_from([-5, 0, 3, 100]),
        doing=st.sampled_from(["init", "train", "recompute", "evaluate", "done", "?"]),
        spent=st.dictionaries(
            st.sampled_from(["init", "load", "train", "recompute", "checkpoint", "?"]),
            st.sampled_from([0.0, 0.4, 7.5, 90.0, 1e9]),
        ),
    )
    def rank_0_tells_its_progress(self, ago: float, doing: str, spent: dict[str, float]) -> None:
        now = self.world.now.timestamp()
        body = {
            "attempt": self._status().get("attempt", 0),
            "step": int(now) % 7,
            "updatedAt": now,
            "account": {"at": now - ago, "doing": doing, "seconds": spent},
        }
        report = read_progress(json.dumps(body).encode())
        assert report and report.account
        if ("FineTuneJob", *KEY) in self.world.objects:
            self.board.put(KEY, self.world.stored(KEY).uid, report)

    @rule(which=st.integers(0, 1))
    def a_node_stops_answering(self, which: int) -> None:
        used = [pod.node for pod in self.world.child_pods(KEY) if pod.phase == "Running"]
        for node in used[which : which + 1]:
            self.world.node_stops_answering(node)

    @rule()
    def silent_nodes_are_evicted(self) -> None:
        self.world.evict_from_silent_nodes()

    @rule()
    def nodes_come_back(self) -> None:
        self.world.nodes_come_back()

    @rule(count=st.sampled_from([1, 31, 61, 400]))
    def time_passes(self, count: int) -> None:
        self.world.pass_time(count)

    # --- people ---

    @rule(wish=st.booleans())
    def suspend_or_resume(self, wish: bool) -> None:
        if ("FineTuneJob", *KEY) in self.world.objects:
            self.world.edit_job(KEY, suspend=wish)

    @rule(right=st.sampled_from([("create", "Job"), ("delete", "Job"), ("patch", "ConfigMap")]))
    def a_right_is_taken_from_the_operator_or_given_back(self, right: tuple[str, str]) -> None:
        self.world.forbidden ^= {right}

    @rule()
    @precondition(lambda self: len(self.world.child_jobs(KEY)) > 0)
    def somebody_deletes_a_child_job(self) -> None:
        job = self.world.child_jobs(KEY)[-1]
        del self.world.objects["Job", KEY.namespace, job.name]

    @rule()
    def delete_and_create_again(self) -> None:
        self.world.delete_job(KEY)
        self.world.add_job(KEY, self.spec)
        self.world.write_status = self.ledger._write  # type: ignore[method-assign]
        self.ledger = Ledger(self.world)
        self.ended = None
        self.numbers = {}
        self.gpu_seconds = 0

    # --- what must hold ---

    @invariant()
    def at_most_one_gang_lives(self) -> None:
        if ("FineTuneJob", *KEY) not in self.world.objects:
            return
        uid = self.world.stored(KEY).uid
        live = {pod.job_uid for pod in self.world.child_pods(KEY)
                if pod.owner_uid == uid and not pod.finished
                and pod.name not in self.ledger.given_up}  # fmt: skip
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
            alive = {p.name for p in self.world.child_pods(KEY)
                     if p.owner_uid == uid and not p.finished}  # fmt: skip
            assert alive <= _named(status), "the end names the pods that may still run"
        self.ended = end

    @invariant()
    def only_pods_out_of_reach_are_given_up(self) -> None:
        named = _named(self._status())
        for pod in self.world.child_pods(KEY):
            if pod.name in named and pod.silent is None and pod.due is None:
                # It came back, and no pass has seen that yet.
                stored = self.stores.child_pods.get(KEY, pod.name)
                assert stored is not None and (stored.silent or stored.due), pod

    @invariant()
    def counters_are_exact(self) -> None:
        status = self._status()
        assert sum(_restarts(status)) == len(self.ledger.paid)
        past = [(f["stage"], f["attempt"]) for f in status.get("pastFailures", ())]
        assert past == self.ledger.past[-10:]

    @invariant()
    def time_is_accounted_for_to_the_second(self) -> None:
        status = self._status()
        account = status.get("goodput")
        if account is None:
            assert "startTime" not in status
            return
        start, until = map(datetime.fromisoformat, (status["startTime"], account["until"]))
        length = (until - start).total_seconds()
        seconds, attempt = account["seconds"], account.get("attempt", {})
        assert sum(seconds.values()) == length
        assert all(0 <= attempt.get(cause, 0) <= count for cause, count in seconds.items())
        assert ("current" in account) != ("completionTime" in status)
        assert "completionTime" not in status or status["completionTime"] == account["until"]
        assert self.gpu_seconds <= account["gpuSeconds"] <= self.most_gpus * length
        self.gpu_seconds = account["gpuSeconds"]

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


JobLife.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestJobLife = JobLife.TestCase
