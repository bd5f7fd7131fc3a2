"""After a failure: which reason ends the job, and how the next attempt is announced."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    last_words,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Adaptation,
    Failure,
    PassedOver,
    PastFailure,
    Phase,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.policies.facts import Facts, State
from finetune_operator.policies.restart import STOPS, reason_to_stop, restart_or_end

SMALLEST = {
    "globalBatchSize": 16,
    "microBatchSize": 1,
    "activationCheckpointing": "Enabled",
    "steps": 90,
}
LATE = {"activeDeadlineSeconds": 100, "workers": {"terminationGracePeriodSeconds": 30}}
P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT

Known = TypeVar("Known", Failure, PastFailure)


def failure(name: str = "NonFinite", step: int | None = 7, stage: StageName = T) -> Failure:
    return Failure(failure_class=name, stage=stage, attempt=1, step=step, message="so it is")


def past(name: str = "NonFinite", step: int | None = 7, stage: StageName = T) -> PastFailure:
    return PastFailure(failure_class=name, stage=stage, attempt=0, step=step)


def on(node: str, known: Known) -> Known:
    """The same failure, of a pod on ``node``."""
    return known.model_copy(update={"node": node})


def facts(spec: dict[str, Any] | None = None, *, stage: StageName = T, **status: Any) -> Facts:
    return make_facts(status_in(stage, **status), spec=make_spec(**(spec or {})))


ROWS = [
    pytest.param(
        facts(), failure("BadData"), "would_only_repeat", "BadData", id="bad data stays bad"
    ),
    pytest.param(
        facts(LATE),
        failure("BadData"),
        "would_only_repeat",
        "BadData",
        id="the true cause is told rather than that time is up",
    ),
    pytest.param(
        facts(LATE),
        failure("Evicted"),
        "time_is_up",
        "DeadlineExceeded",
        id="nothing starts again when the time is up",
    ),
    pytest.param(
        facts({"recovery": {"maxRestarts": 0}}),
        failure(),
        "no_budget_was_given",
        "NonFinite",
        id="no restart was wanted: the failure speaks for itself",
    ),
    pytest.param(
        facts({"recovery": {"maxInfrastructureRestarts": 0}}),
        failure("Evicted"),
        "no_budget_was_given",
        "Evicted",
        id="nor after an eviction",
    ),
    pytest.param(
        facts(
            {"training": SMALLEST},
            resolved=Resolved(adaptations=(Adaptation(change="zeroStage 2 → 3"),) * 2),
        ),
        failure("CudaOom"),
        "nothing_is_left_to_make_smaller",
        "CudaOom",
        id="the foot of the ladder",
    ),
    pytest.param(
        facts({"recovery": {"onNonFinite": "Stop"}}, past_failures=(past(),)),
        failure(),
        "numbers_end_the_job",
        "NonFinite",
        id="bad numbers were to stop the job",
    ),
    pytest.param(
        facts(
            {
                "recovery": {"onNonFinite": "RollBack", "maxRollBacks": 1},
                "checkpoint": {"everySteps": 5},
            },
            resolved=Resolved(passed_over=(PassedOver(first_step=1, last_step=4),)),
        ),
        failure(),
        "rolled_back_often_enough",
        "NonFinite",
        id="one roll-back was allowed and made",
    ),
    pytest.param(
        facts(past_failures=(past(), past("Evicted"))),
        failure(),
        "repeats_itself",
        "RepeatedFailure",
        id="the same class at the same step, even with another failure in between",
    ),
    pytest.param(
        facts(past_failures=(on("worker-1", past("Hang")),)),
        on("worker-2", failure("Hang")),
        "repeats_itself",
        "RepeatedFailure",
        id="a hang at the same step on another node",
    ),
    pytest.param(
        facts(past_failures=(past("Hang"), past("Hang"))),
        failure("Hang"),
        "repeats_itself",
        "RepeatedFailure",
        id="a hang at the same step for the third time",
    ),
    pytest.param(
        facts(stage=P, past_failures=(past("Internal", None, P),)),
        failure("Internal", None, P),
        "repeats_itself",
        "RepeatedFailure",
        id="prepare has no steps: the same class is the same failure",
    ),
    pytest.param(
        facts(restarts=Restarts(program=3, infrastructure=0)),
        failure(),
        "budget_is_spent",
        "RestartsExhausted",
        id="three restarts did not help",
    ),
    pytest.param(
        facts(restarts=Restarts(program=0, infrastructure=20)),
        failure("Evicted"),
        "budget_is_spent",
        "RestartsExhausted",
        id="twenty evictions",
    ),
    pytest.param(
        facts({"recovery": {"maxRestarts": 2}}, restarts=Restarts(program=3)),
        failure(),
        "budget_is_spent",
        "RestartsExhausted",
        id="a budget that was lowered below what is spent",
    ),
]


@pytest.mark.parametrize(("known", "told", "rule", "reason"), ROWS)
def test_the_job_ends_because(known: Facts, told: Failure, rule: str, reason: str) -> None:
    first = next(stop for stop in STOPS if stop(known, told) is not None)
    assert first.__name__ == rule
    verdict = restart_or_end(known, told)
    assert (verdict.phase, verdict.state, verdict.reason) == (Phase.FAILED, State.FAILED, reason)
    assert verdict.changes["failure"] == told
    assert "so it is" in verdict.message
    assert "restarts" not in verdict.changes, "nothing was spent"


def test_every_stop_has_a_row_and_the_rows_stand_in_the_order_of_the_stops() -> None:
    names = [row.values[2] for row in ROWS]
    assert list(dict.fromkeys(names)) == [stop.__name__ for stop in STOPS]


GOES_ON = [
    pytest.param(facts(), failure(), id="the first failure"),
    pytest.param(facts(past_failures=(past(),)), failure(step=8), id="at another step"),
    pytest.param(facts(past_failures=(past(),)), failure("Internal"), id="of another class"),
    pytest.param(
        facts(past_failures=(past(step=None),)), failure(step=None), id="at a step that is unknown"
    ),
    pytest.param(
        facts(past_failures=(past("Evicted"),)),
        failure("Evicted"),
        id="an eviction at the same step is chance",
    ),
    pytest.param(
        facts(past_failures=(on("worker-1", past("Hang")),)),
        on("worker-1", failure("Hang")),
        id="a second hang on the same node may be its fault",
    ),
    pytest.param(
        facts(past_failures=(past("UnknownFailure"),)),
        failure("UnknownFailure"),
        id="two deaths without a word need not be the same",
    ),
    pytest.param(
        facts(past_failures=(past("Internal", None, P),)),
        failure("Internal", None, T),
        id="in another stage",
    ),
    pytest.param(
        facts(restarts=Restarts(program=3, infrastructure=19)),
        failure("Evicted"),
        id="one budget is spent, the other is not",
    ),
    pytest.param(
        facts({"recovery": {"maxRestarts": 9}}, restarts=Restarts(program=3)),
        failure(),
        id="a budget that was raised",
    ),
    pytest.param(
        facts(past_failures=(past("CudaOom"),) * 3, restarts=Restarts(program=3)),
        failure("CudaOom"),
        id="less memory in use is no repetition and costs no budget",
    ),
]


@pytest.mark.parametrize(("known", "told"), GOES_ON)
def test_another_attempt_follows(known: Facts, told: Failure) -> None:
    assert reason_to_stop(known, told) is None
    verdict = restart_or_end(known, told)
    assert (verdict.phase, verdict.state) == (Phase.RESTARTING, State.MOVING)
    assert verdict.final, "a lagging watch must not spend a budget"
    assert verdict.actions == ()


def due(known: Facts, told: Failure) -> datetime:
    found: datetime = restart_or_end(known, told).changes["next_attempt_time"]
    return found


def test_pauses_double_up_to_the_longest_and_start_anew_after_progress() -> None:
    spec = {"recovery": {"maxRestarts": 99, "backoffSeconds": {"initial": 10, "max": 60}}}
    stuck = [
        (due(facts(spec, past_failures=(past("Internal"),) * n), failure()) - NOW).total_seconds()
        for n in range(5)
    ]
    assert stuck == [10, 20, 40, 60, 60]
    moved = facts(spec, past_failures=(past("Internal"),) * 4)
    assert due(moved, failure(step=8)) == NOW + seconds(10)


def test_the_announcement_says_when_why_and_what_is_left_in_one_sentence() -> None:
    verdict = restart_or_end(facts(restarts=Restarts(program=1, infrastructure=4)), failure())
    assert verdict.message == verdict.pending_reason
    assert verdict.message == (
        "trying again in 5 s (restart 2 of 3 after failures of the program, "
        "spec.recovery.maxRestarts): train failed with NonFinite: so it is"
    )
    assert verdict.changes["restarts"] == Restarts(program=2, infrastructure=4)


def test_a_job_that_is_to_sleep_is_not_promised_a_time() -> None:
    verdict = restart_or_end(facts({"suspend": True}), failure())
    assert verdict.message.startswith("trying again once spec.suspend is false (restart 1 of 3")


def test_an_exhausted_budget_is_said_in_one_sentence_with_its_field() -> None:
    known = facts({"recovery": {"maxRestarts": 2}}, restarts=Restarts(program=2))
    assert restart_or_end(known, failure()).message == (
        "train failed with NonFinite: so it is; 2 restarts after failures of the program did not "
        "help (spec.recovery.maxRestarts: 2)"
    )


def test_a_repetition_names_the_attempt_and_the_step_that_it_repeats() -> None:
    message = restart_or_end(facts(past_failures=(past(),)), failure()).message
    assert "attempt 0 failed in the same way at step 7, so no other one is made" in message


@pytest.mark.parametrize(("step", "where"), [(7, " at step 7"), (9, ""), (None, "")])
def test_a_second_time_over_the_local_disk_is_the_last_wherever(
    step: int | None, where: str
) -> None:
    name = "EphemeralStorageExceeded"
    again = failure(name).model_copy(update={"step": step})
    assert restart_or_end(facts(), again).phase is Phase.RESTARTING
    verdict = restart_or_end(facts(past_failures=(past(name),)), again)
    assert (verdict.phase, verdict.reason) == (Phase.FAILED, "RepeatedFailure")
    assert f"attempt 0 failed in the same way{where}, so no" in verdict.message


def test_a_last_attempt_that_was_never_asked_still_tells_what_the_one_before_it_lost() -> None:
    words = last_words(T, "failed", 1, resumedFrom={"attempt": 0, "step": 5})
    known = make_facts(
        status_in(
            T, attempt=1, past_failures=(past("UnknownFailure"),), restarts=Restarts(program=3)
        ),
        jobs=(make_child_job(T, 1, failure=("BackoffLimitExceeded", "…")),),
        evidence=(ended_pod(0, attempt=1, code=143), ended_pod(1, attempt=1, code=1, words=words)),
    )
    verdict = restart_or_end(known, failure())
    assert verdict.phase is Phase.FAILED
    assert verdict.changes["restarts"] == Restarts(program=3, steps_redone=2)
    assert verdict.changes["past_failures"][0].steps_redone == 2


def test_an_end_waits_for_the_last_pod() -> None:
    job = make_child_job(T, failure=("BackoffLimitExceeded", "…"))
    words = failure_words(message="m")
    pods = (ended_pod(1, code=71, words=words), make_pod(0, deleting=True))
    ending = make_facts(
        status_in(T), jobs=(job,), pods=pods, spec=make_spec(recovery={"maxRestarts": 0})
    )
    assert restart_or_end(ending, failure()).phase is not Phase.FAILED
