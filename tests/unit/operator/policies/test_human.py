"""A trained model waits for people, and what they say decides about it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    UID,
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_spec,
    status_in,
)
from unit.operator.policies.ratings import (
    ASKED,
    BUNDLE,
    FIRST,
    ITEMS,
    NAME,
    RATING,
    TOLD,
    sheet,
    spec,
)

from finetune_operator.api.blinding import tuned_first
from finetune_operator.api.types import Cause, FineTuneJobStatus, StageName
from finetune_operator.policies.facts import Facts, State
from finetune_operator.policies.ratings import read_ratings
from finetune_operator.status import decide, judge

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT


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
