"""Numbers, sizes and deadlines of attempts."""

from __future__ import annotations

import pytest
from builders import NOW, main_condition, make_facts, make_pod, make_spec, seconds, status_in
from unit.operator.status.cases import BRIEF, GANG, P, T, ready_gang, train

from finetune_operator.api.types import Failure, FineTuneJobStatus, Phase, Resolved
from finetune_operator.status import decide, judge


def test_the_next_attempt_has_the_next_number_and_its_own_logs() -> None:
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW, job_uid="x")
    decided = decide(make_facts(waiting)).status
    assert decided["attempt"] == 1
    assert "jobUID" not in decided and "nextAttemptTime" not in decided
    assert decided["logs"]["path"].endswith("/attempts/1/logs")


def test_an_attempt_whose_job_was_never_created_keeps_its_number_over_a_suspension() -> None:
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW)
    assert decide(make_facts(waiting)).status["attempt"] == 0


def test_a_resized_gang_is_resolved_anew() -> None:
    spec = make_spec(workers={"count": 4}, training={"microBatchSize": 2})
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW, job_uid="x")
    assert decide(make_facts(waiting, spec=spec)).status["resolved"]["worldSize"] == 4


def test_a_gang_that_a_queue_holds_back_has_no_start_deadline() -> None:
    held = make_facts(
        status_in(T), jobs=train(created=NOW - seconds(100_000), suspended=True), pods=()
    )
    decision = decide(held)
    assert judge(held).reason != "StartTimeout"
    assert decision.again_after is None or decision.again_after > 0


def test_the_deadline_is_the_failure_whatever_failed_before() -> None:
    spec = make_spec(activeDeadlineSeconds=60, workers=BRIEF)
    before = Failure(failure_class="Evicted", stage=P, attempt=0, message="gone", at=NOW)
    late = status_in(P, start_time=NOW - seconds(61), failure=before)
    first = decide(make_facts(late, spec=spec, pods=(make_pod(0, P),)))
    assert first.status["failure"]["class"] == "DeadlineExceeded"
    told = FineTuneJobStatus.model_validate(first.status)
    later = make_facts(told, spec=spec, pods=(make_pod(0, P),), now=NOW + seconds(5))
    assert decide(later).status == first.status, "waiting for the pods writes nothing"


def test_start_timeouts_in_a_row_wait_longer_and_longer() -> None:
    pauses = []
    for times in (0, 1, 2, 9):
        late = make_facts(
            status_in(T, start_timeouts=times or None), jobs=train(created=NOW - seconds(4000))
        )
        due = FineTuneJobStatus.model_validate(decide(late).status).next_attempt_time
        assert due is not None
        pauses.append((due - NOW).total_seconds())
    assert pauses == [30, 60, 120, 1800]


def test_the_deadline_wakes_the_job_up() -> None:
    facts = make_facts(
        ready_gang(), jobs=train(), pods=GANG, spec=make_spec(activeDeadlineSeconds=160)
    )
    assert decide(facts).again_after == pytest.approx(60.5)


def test_a_gang_resized_to_a_misfit_waits_for_a_better_number_and_is_not_lost() -> None:
    begun = status_in(T, phase=Phase.SUSPENDED, resolved=Resolved(global_batch_size=16))
    spec = make_spec(workers={"count": 3}, training={"steps": 1, "globalBatchSize": None})
    decision = decide(make_facts(begun, spec=spec))
    assert main_condition(decision.status)["reason"] == "BatchDoesNotFit"
    assert main_condition(decision.status, "Stalled")["status"] == "True"
    assert "completionTime" not in decision.status
    better = make_spec(workers={"count": 4}, training={"steps": 1, "globalBatchSize": None})
    assert (
        main_condition(decide(make_facts(begun, spec=better)).status)["reason"] != "BatchDoesNotFit"
    )
