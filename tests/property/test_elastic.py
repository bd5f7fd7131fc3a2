"""Room comes and goes in any order: an elastic gang has an allowed size, and does not flap."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from builders import KEY, PLATFORM, last_words, make_spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from property.test_histories import JobLife as AnyLife

from finetune_operator.api.types import StageName
from finetune_operator.gather import read_status
from finetune_operator.plan import plan_training
from finetune_operator.reports import read_progress

SHRINK_SECONDS, GROW_SECONDS, MAX_RESIZES = 30, 60, 5
SIZES = (1, 2, 4)
"""Those between 1 and 4 that share a batch of 32 with two ranks each and a micro-batch of two."""
SPEC = make_spec(
    startDeadlineSeconds=60,
    training={"globalBatchSize": 32, "microBatchSize": 2},
    workers={"count": 4, "ranksPerWorker": None, "gpusPerWorker": 2},
    recovery={
        "maxRestarts": 2,
        "maxInfrastructureRestarts": 3,
        "backoffSeconds": {"initial": 10, "max": 60},
        "nodeLostAfterSeconds": 30,
        "elastic": {
            "min": 1,
            "shrinkAfterSeconds": SHRINK_SECONDS,
            "growAfterSeconds": GROW_SECONDS,
            "maxResizes": MAX_RESIZES,
        },
    },
)


class ElasticLife(AnyLife):
    """Any life, and a cluster in which there is room for one, two, three or four pods."""

    spec = SPEC
    most_gpus = 4 * 2

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.planned: Any = None
        """The status whose plan was looked at last."""
        self.resizes: list[dict[str, Any]] = []
        """All of them, while the status keeps the newest."""

    @rule(room=st.integers(1, 4))
    def there_is_room_for(self, room: int) -> None:
        """Nodes come, or go and evict what they ran."""
        self.world.room = room
        running = [pod for pod in self.world.child_pods(KEY) if pod.phase == "Running"]
        for pod in running[room:]:
            if not pod.silent:
                self.world.evict_pod(pod.name)

    @rule()
    def the_gang_trains_for_a_while(self) -> None:
        self.time_passes(GROW_SECONDS + 1)
        self.step += 5
        now = self.world.now.timestamp()
        told = {"attempt": self._status().get("attempt", 0), "step": self.step, "updatedAt": now}
        report = read_progress(json.dumps(told).encode())
        assert report
        if ("FineTuneJob", *KEY) in self.world.objects:
            self.board.put(KEY, self.world.stored(KEY).uid, report)
        for step in (self.watches_catch_up, self.pass_over, self.pass_over):
            step()
            self._check()

    @rule(room=st.integers(1, 4))
    def the_gang_makes_do_with(self, room: int) -> None:
        """Its pods go where there is too little room, and time passes until a gang is up again."""
        self.there_is_room_for(room)
        for _ in range(4):
            for step in (self.jobs_are_judged, self.terminating_pods_go, self.jobs_are_judged,
                         self.watches_catch_up, self.pass_over, self.watches_catch_up,
                         self.pods_are_made, self.pods_start, self.watches_catch_up,
                         self.pass_over):  # fmt: skip
                step()
                self._check()
            self.time_passes(SHRINK_SECONDS + 1)

    @rule()
    def room_goes_and_comes_again(self) -> None:
        self.the_gang_makes_do_with(2)
        self.world.room = 4
        for _ in range(2):
            self.the_gang_trains_for_a_while()
        self.the_gang_makes_do_with(4)

    def _comes_to_rest(self) -> None:
        """There is room again: without it a job whose resizes are used up rightly waits for it."""
        self.world.room = 4
        super()._comes_to_rest()

    def every_pod_succeeds(self) -> None:
        """Of a gang, all together or none: each step needs all ranks."""
        for job in self.world.child_jobs(KEY):
            up = [pod for pod in self.world.child_pods(KEY) if pod.job_uid == job.uid]
            up = [pod for pod in up if pod.phase == "Running" and not (pod.deleting or pod.silent)]
            for pod in up if len(up) == job.parallelism else ():
                words = last_words(StageName(pod.stage), attempt=pod.attempt, step=1, steps=1)
                self.world.end_pod(pod.name, 0, words)

    def delete_and_create_again(self) -> None:
        super().delete_and_create_again()
        self.resizes = []

    def _check(self) -> None:
        super()._check()
        self.sizes_are_allowed_and_written_ahead()
        self.resizes_are_counted_bounded_and_rare()

    @invariant()
    def sizes_are_allowed_and_written_ahead(self) -> None:
        status = self._status()
        if "resolved" not in status:
            return
        assert status["resolved"]["workers"] in SIZES
        assert status["resolved"]["globalBatchSize"] == 32
        if status is not self.planned:  # every write makes a new one
            plan = plan_training(KEY, "uid", self.spec, read_status(status), PLATFORM, {})
            assert plan.pods(StageName.TRAIN) in SIZES
            self.planned = status
        for job in self.world.child_jobs(KEY):
            own = job.owner_uid == self.world.stored(KEY).uid
            if own and job.stage == "train" and job.attempt == status["attempt"]:
                assert job.parallelism == status["resolved"]["workers"]

    @invariant()
    def resizes_are_counted_bounded_and_rare(self) -> None:
        status = self._status()
        told = status.get("resolved", {}).get("resizes", [])
        if told and told[-1] not in self.resizes:
            self.resizes.append(told[-1])
        assert told == self.resizes[-10:], "one at a time"
        paid = [each for each in self.resizes if each["reason"] != "resumed with workers.count"]
        assert status.get("restarts", {}).get("resizes", 0) == len(paid) <= MAX_RESIZES
        before: dict[str, Any] = {}
        for each in self.resizes:
            assert each["workers"] != each["workersBefore"]
            if each in paid and each["workers"] > each["workersBefore"]:
                assert before, "it begins at its largest"
                since = datetime.fromisoformat(each["at"]) - datetime.fromisoformat(before["at"])
                assert since.total_seconds() >= GROW_SECONDS
                assert each != paid[MAX_RESIZES - 1 : MAX_RESIZES], "it could not shrink again"
            before = each


ElasticLife.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestElasticLife = ElasticLife.TestCase


def gangs_of_a_life(crash_after: int | None) -> tuple[list[tuple[str, int]], list[Any], int]:
    """Room goes and comes again; the operator dies after a write and starts again. Returns each
    gang with its size, the resizes, and how many writes there were."""
    life = ElasticLife()
    life.create(1)
    before = len(life.world.writes)
    life.world.crash_after = crash_after
    for _ in range(2):  # a crash costs a turn
        life.the_gang_makes_do_with(2)
    life.world.room = 4
    for _ in range(3):
        life.the_gang_trains_for_a_while()
    life.the_gang_makes_do_with(4)
    gangs = [w[2] for w in life.world.writes if w[:2] == ("POST", "Job") and "-a" in w[2]]
    sizes = {job.name: job.parallelism for job in life.world.child_jobs(KEY)}
    resizes = [(each["workersBefore"], each["workers"]) for each in life.resizes]
    life.loop.close()
    return [(name, sizes.get(name, 0)) for name in gangs], resizes, len(life.world.writes) - before


def test_a_crash_after_any_write_gives_the_same_gangs() -> None:
    gangs, resizes, writes = gangs_of_a_life(None)
    assert resizes == [(4, 2), (2, 4)]
    assert gangs[-1] == ("demo-a3", 4) and len(gangs) == len(set(gangs)) == 4
    assert writes > 8
    for k in range(1, writes + 1):
        assert gangs_of_a_life(k)[:2] == (gangs, resizes), f"crash after write {k}"
