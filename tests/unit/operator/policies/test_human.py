"""A trained model waits for people, and what they say decides about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import (
    KEY,
    PLATFORM,
    UID,
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_spec,
    status_in,
)
from fake_cluster import Crash, FakeCluster

from finetune_operator.api.blinding import tuned_first
from finetune_operator.api.types import Cause, FineTuneJobStatus, HumanEvaluation, StageName
from finetune_operator.gather import Gatherer, Stores
from finetune_operator.policies.facts import Facts, State
from finetune_operator.policies.ratings import read_ratings
from finetune_operator.progress import ProgressBoard
from finetune_operator.reconcile import Reconciler
from finetune_operator.status import decide, judge

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT
BUNDLE = "sha256:" + "ab" * 32
ITEMS = 10
FIRST = tuned_first(UID, 42, ITEMS)
ASKED: dict[str, Any] = {"generation": {}, "human": {}}
GATE = {"human": {"minWinRate": "0.6", "minRatings": 10, "minRaters": 2}}
NAME = "demo-ratings"
TOLD = HumanEvaluation(
    uri=f"pvc://work/team-a/{UID}/output/rating",
    bundle=BUNDLE, items=ITEMS, same=2, config_map=NAME,
)  # fmt: skip


def spec(**changes: Any) -> dict[str, Any]:
    return make_spec(evaluation=ASKED, gate=GATE, **changes)


def sheet(rater: str, wins: int, count: int = ITEMS, uid: str = UID, bundle: str = BUNDLE) -> str:
    """The first ``wins`` items are won by the tuned model, the others lost."""
    first = tuned_first(uid, 42, ITEMS)
    ratings = {
        str(item): "A" if (item in first) == (item <= wins) else "B" for item in range(1, count + 1)
    }
    return json.dumps({"bundle": bundle, "rater": rater, "ratings": ratings})


def held(**fields: Any) -> FineTuneJobStatus:
    known = {"export_attempt": 1, "human_evaluation": TOLD}
    return status_in(X, **{**known, **fields})


def waiting(data: dict[str, str] | None = None, **others: Any) -> Facts:
    """Of a job whose bundle is written, with these ratings."""
    ratings = None if data is None else read_ratings(data)
    known = {"status": held(), "spec": spec(), "jobs": (make_child_job(X, complete=True),)}
    return make_facts(ratings=ratings, **{**known, **others})


def export_ends(words: dict[str, Any], **changes: Any) -> Facts:
    known = {
        "status": status_in(X),
        "jobs": (make_child_job(X, complete=True),),
        "pods": (ended_pod(0, X, words=words),),
        "spec": spec(),
    }
    return make_facts(**{**known, **changes})


RATING = {"bundle": BUNDLE, "items": ITEMS, "same": 2}


def test_a_bundle_without_a_model_holds_the_job_and_writes_the_next_attempt_ahead() -> None:
    decision = decide(export_ends(last_words(X, rating=RATING)))
    status = decision.status
    assert status["phase"] == "Exporting" and "artifact" not in status
    assert (status["exportAttempt"], status.get("exportJobUID")) == (1, None)
    assert status["humanEvaluation"] == TOLD.wire()
    assert status["pendingReason"] == (
        "the model waits unpublished for people, with 0 of 10 ratings by 0 of 2 raters: they open "
        f"pvc://work/team-a/{UID}/output/rating/rate.html (10 items), and the files that it saves "
        "go into ConfigMap demo-ratings"
    )
    gate = main_condition(status, "GatePassed")
    assert (gate["status"], gate["reason"]) == ("Unknown", "WaitingForRatings")
    assert main_condition(status, "Published")["status"] == "Unknown"
    assert status["goodput"]["current"] == Cause.SUSPENDED
    assert not decision.actions and decision.irrevocable


@pytest.mark.parametrize("words", [None, last_words(X), last_words(X, rating={"bundle": 1})])
def test_without_a_word_of_what_is_to_be_rated_export_runs_again(words: Any) -> None:
    facts = export_ends(words, pods=(ended_pod(0, X, words=words),) if words else ())
    status = decide(facts).status
    assert (status["phase"], status["restarts"]["infrastructure"]) == ("Restarting", 1)
    again = FineTuneJobStatus.model_validate(status)
    assert decide(export_ends(words, status=again)).status["restarts"] == status["restarts"]


def test_while_people_rate_nothing_is_created_and_nothing_is_stuck() -> None:
    stored = FineTuneJobStatus.model_validate(decide(waiting()).status)
    decision = decide(waiting(status=stored))
    assert decision.status == stored.wire()
    assert (decision.actions, decision.again_after) == ((), 30.0)
    assert judge(waiting()).state is State.RUNNING


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"a": sheet("Ann", 10)}, "10 of 10 ratings by 1 of 2 raters"),
        ({"a": sheet("Ann", 4, 4), "b": sheet("Ben", 5, 5)}, "9 of 10 ratings by 2 of 2 raters"),
        ({"a": sheet("Ann", 10), "b": sheet("Ben", 0, 0)}, "10 of 10 ratings by 1 of 2 raters"),
    ],
)
def test_too_few_ratings_decide_nothing(data: dict[str, str], says: str) -> None:
    verdict = judge(waiting(data))
    assert (verdict.reason, verdict.actions) == ("WaitingForRatings", ())
    assert says in verdict.message
    assert verdict.changes["human_evaluation"].win_rate == "1"


@pytest.mark.parametrize(("wins", "passes"), [(6, True), (5, False)])
def test_enough_ratings_publish_the_model_or_end_the_job(wins: int, passes: bool) -> None:
    data = {"a": sheet("Ann", wins), "b": sheet("Ben", 6)}
    decision = decide(waiting(data))
    status, people = decision.status, decision.status["humanEvaluation"]
    assert (people["ratings"], people["raters"], people["wins"]) == (20, 2, wins + 6)
    assert decision.irrevocable
    if passes:
        assert people["acceptedTime"] == "2026-11-23T12:00:00Z"
        assert people["winRate"] == "0.6" and people["agreement"] == "1"
        again = decide(waiting(data, status=FineTuneJobStatus.model_validate(status)))
        assert [(a.verb.value, a.kind) for a in again.actions] == [
            ("ensure", "ConfigMap"), ("create", "Job"),
        ]  # fmt: skip
        assert again.actions[-1].name == "demo-x1"
        return
    assert (status["phase"], status["failure"]["class"]) == ("Failed", "GateFailed")
    assert status["failure"]["stage"] == "export" and "artifact" not in status
    for name, value in (("Failed", "True"), ("GatePassed", "False"), ("Published", "False")):
        found = main_condition(status, name)
        assert (found["status"], found["reason"]) == (value, "GateFailed")
        assert found["message"] == (
            "the model is not published, because the win rate is 0.55 by 20 ratings of 2 raters "
            f"(11 better, 9 worse, 0 ties, 0 both bad, agreement {people['agreement']}) and has to "
            "be at least 0.6 (spec.gate.human.minWinRate)"
        )


def test_the_win_rate_is_compared_before_it_is_rounded() -> None:
    gate = {"human": {"minWinRate": "0.33335", "minRatings": 1}}
    data = {"a": sheet("Ann", 1, 3)}
    verdict = judge(waiting(data, spec=make_spec(evaluation=ASKED, gate=gate)))
    assert verdict.changes["human_evaluation"].win_rate == "0.3333"
    assert verdict.reason == "GateFailed"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "ConfigMap demo-ratings: it is empty"),
        ({"a": sheet("Ann", 10), "b": "{"}, "ConfigMap demo-ratings: key b: it is no JSON"),
        ({"a": sheet("Ann", 10), "b": sheet("Ben", 9, bundle="sha256:00")}, "another bundle"),
        ({"a": "x" * 2_000_000}, "it holds 2000000 bytes, and may hold 1048576"),
        ({f"k{n}": "\\" * 9000 for n in range(64)}, "and 61 more like that"),
    ],
)
def test_one_wrong_file_and_none_counts_until_it_is_mended(data: dict[str, str], says: str) -> None:
    decision = decide(waiting(data))
    people = decision.status["humanEvaluation"]
    assert says in people["problem"] and "ratings" not in people and "winRate" not in people
    assert says in decision.status["pendingReason"]
    assert main_condition(decision.status, "Stalled")["reason"] == "RatingsInvalid"
    assert main_condition(decision.status, "GatePassed")["reason"] == "RatingsInvalid"
    mended = FineTuneJobStatus.model_validate(decision.status)
    again = decide(waiting({"a": sheet("Ann", 9), "b": sheet("Ben", 9)}, status=mended))
    assert "acceptedTime" in again.status["humanEvaluation"]


def test_ratings_of_another_job_of_the_same_seed_are_another_draw() -> None:
    assert tuned_first("other", 42, ITEMS) != FIRST


def test_the_deadline_ends_the_wait_and_says_what_was_missing() -> None:
    stored = FineTuneJobStatus.model_validate(decide(waiting()).status)
    brief = {"terminationGracePeriodSeconds": 30}
    late = waiting(status=stored, spec=spec(activeDeadlineSeconds=100, workers=brief))
    status = decide(late).status
    assert (status["phase"], main_condition(status, "Failed")["reason"]) == (
        "Failed", "DeadlineExceeded",
    )  # fmt: skip
    assert main_condition(status, "Failed")["message"] == (
        "spec.activeDeadlineSeconds: not done within 100 s, because the ratings that "
        "spec.gate.human asks for did not come; the model is not published, and the trained "
        "weights stay in the folder of the attempt"
    )
    assert main_condition(status, "GatePassed")["reason"] == "Pending"
    assert "pendingReason" not in status


def test_a_job_that_waits_can_be_suspended_and_waits_again() -> None:
    stored = FineTuneJobStatus.model_validate(decide(waiting()).status)
    asleep = decide(waiting(status=stored, spec=spec(suspend=True))).status
    assert (asleep["phase"], asleep["humanEvaluation"]) == ("Suspended", TOLD.wire())
    told: FineTuneJobStatus = FineTuneJobStatus.model_validate(asleep)
    reasons = []
    for _ in range(4):
        status = decide(waiting(status=told)).status
        reasons.append(main_condition(status)["reason"])
        told = FineTuneJobStatus.model_validate(status)
    assert reasons[-2:] == ["WaitingForRatings"] * 2
    assert told.export_attempt == 1


def test_the_trainer_is_told_to_publish_only_once_people_have_said_so() -> None:
    before = waiting().known_plan.run_config
    assert before["gate"]["human"] == {} and before["evaluation"]["human"] == {"configMap": NAME}
    result = decide(waiting({"a": sheet("Ann", 9), "b": sheet("Ben", 9)})).status
    after = waiting(status=FineTuneJobStatus.model_validate(result)).known_plan.run_config
    assert after["gate"]["human"] == {
        "bundle": BUNDLE,
        "finding": "the win rate is 0.9 by 20 ratings of 2 raters (18 better, 2 worse, 0 ties, "
        "0 both bad, agreement 1)",
    }


class World:
    """An operator over a small cluster, with a job up to the end of its first export."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.cluster = FakeCluster()
        self.raw = self.cluster.add_job(KEY, wish)
        self.start()

    def start(self) -> None:
        """A new life of the operator."""
        self.stores = Stores()
        gatherer = Gatherer(
            self.cluster, self.stores, ProgressBoard(), PLATFORM, lambda: self.cluster.now
        )
        gatherer._ask = self._fresh(gatherer)  # type: ignore[method-assign]
        self.reconciler = Reconciler(self.cluster, gatherer, lambda event: None)

    @staticmethod
    def _fresh(gatherer: Gatherer) -> Any:
        """Answers count for seconds of the real clock, and these tests take none."""
        ask = gatherer._ask

        async def fresh(*what: str) -> Any:
            gatherer._answers.clear()
            return await ask(*what)

        return fresh

    @property
    def status(self) -> Any:
        return self.cluster.stored(KEY).status

    async def settle(self) -> float | None:
        again = None
        for _ in range(3):
            self.cluster.sync(self.stores)
            again = await self.reconciler.reconcile(KEY)
        return again

    async def stage(self, name: StageName, **said: Any) -> None:
        """The stage's pods come up and end with these words."""
        await self.settle()
        self.cluster.make_pods()
        self.cluster.start_pods()
        await self.settle()
        for pod in self.cluster.child_pods(KEY):
            if pod.stage == name.value and pod.phase == "Running":
                self.cluster.end_pod(pod.name, 0, last_words(name, attempt=pod.attempt, **said))
        self.cluster.judge_jobs()
        await self.settle()

    async def train(self) -> None:
        await self.stage(P, steps=90)
        await self.stage(T, step=90, steps=90)

    def rate(self, wins: int, *raters: str) -> None:
        uid = self.raw["metadata"]["uid"]
        files = {f"{name}.json": sheet(name, wins, uid=uid) for name in raters}
        self.cluster.config_maps[NAME] = files

    def pods(self) -> list[str]:
        return [pod.name for pod in self.cluster.child_pods(KEY) if not pod.finished]

    def writes(self) -> int:
        return sum(kind == "FineTuneJob" for _, kind, _ in self.cluster.writes)


ARTIFACT = {"digest": "sha256:1", "bytes": 42, "formats": ["Merged"]}


async def test_from_training_over_people_to_the_published_model() -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    assert main_condition(world.status)["reason"] == "WaitingForRatings"
    assert world.pods() == []
    before = world.writes()
    for _ in range(5):
        world.cluster.pass_time(30)
        assert await world.settle() == 30.0
    assert world.writes() == before, "waiting writes nothing"

    world.rate(8, "Ann", "Ben")
    world.cluster.pass_time(600)
    await world.settle()
    assert [job.name for job in world.cluster.child_jobs(KEY)][-2:] == ["demo-x0", "demo-x1"]
    text = world.cluster.objects["ConfigMap", "team-a", "demo-run"]["data"]["run.json"]
    assert json.loads(text)["gate"]["human"]["bundle"] == BUNDLE
    await world.stage(X, artifact=ARTIFACT, rating=RATING, gate={"message": "people like it"})
    status = world.status
    assert (status["phase"], status["artifact"]["digest"]) == ("Succeeded", "sha256:1")
    assert status["humanEvaluation"]["winRate"] == "0.8"
    gate = main_condition(status, "GatePassed")
    assert (gate["status"], gate["message"]) == ("True", "people like it")
    spent = status["goodput"]["seconds"]
    assert spent["suspended"] == 750 and spent["export"] == 0
    assert world.writes() <= 12

    world.rate(0, "Ann", "Ben")
    world.cluster.pass_time(600)
    assert await world.settle() is None
    assert world.status == status, "what was accepted stays"


async def test_a_model_that_people_do_not_like_is_never_exported() -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    world.rate(5, "Ann", "Ben")
    await world.settle()
    assert (world.status["phase"], world.status["failure"]["class"]) == ("Failed", "GateFailed")
    assert [job.name for job in world.cluster.child_jobs(KEY)][-1] == "demo-x0"


@pytest.mark.parametrize("after", range(1, 6))
async def test_an_operator_that_dies_on_the_way_publishes_once(after: int) -> None:
    world = World(spec())
    await world.train()
    await world.stage(X, rating=RATING)
    world.rate(8, "Ann", "Ben")
    world.cluster.crash_after = after
    try:
        await world.stage(X, artifact=ARTIFACT, rating=RATING)
    except Crash:
        world.start()
        await world.settle()
        world.cluster.make_pods()
        await world.stage(X, artifact=ARTIFACT, rating=RATING)
    assert world.status["phase"] == "Succeeded"
    assert [job.name for job in world.cluster.child_jobs(KEY)] == [
        "demo-p0", "demo-a0", "demo-x0", "demo-x1",
    ]  # fmt: skip


async def test_without_a_gate_ratings_come_after_the_model_is_published() -> None:
    world = World(make_spec(evaluation=ASKED))
    await world.train()
    await world.stage(X, artifact=ARTIFACT, rating=RATING)
    assert world.status["phase"] == "Succeeded"
    assert world.status["humanEvaluation"]["bundle"] == BUNDLE
    ended = world.writes()
    assert await world.settle() == 120.0
    world.rate(7, "Ann")
    assert await world.settle() == 120.0
    people = world.status["humanEvaluation"]
    assert (people["winRate"], people["ratings"], people.get("agreement")) == ("0.7", 10, None)
    assert main_condition(world.status, "Succeeded")["status"] == "True"
    assert world.writes() == ended + 1
    world.cluster.config_maps.clear()
    await world.settle()
    assert world.status["humanEvaluation"] == people, "tidying up takes nothing back"
    world.cluster.config_maps[NAME] = {"a": "{"}
    await world.settle()
    assert "it is no JSON" in world.status["humanEvaluation"]["problem"]
    assert world.status["phase"] == "Succeeded"
    world.cluster.pass_time(31 * 86_400)
    assert await world.settle() is None


async def test_a_job_that_asks_nobody_reads_no_config_map() -> None:
    world = World(make_spec())
    asked: list[str] = []

    async def config_map(namespace: str, name: str) -> None:
        asked.append(name)

    world.cluster.config_map = config_map  # type: ignore[method-assign,assignment]
    await world.train()
    await world.stage(X, artifact=ARTIFACT)
    assert world.status["phase"] == "Succeeded" and asked == []
    assert "humanEvaluation" not in world.status
