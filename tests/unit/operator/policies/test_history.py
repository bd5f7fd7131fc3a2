"""What the job remembers of attempts that ended, and what their ends cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import NOW, last_words, make_child_job, make_facts, make_pod, status_in
from builders import ended_pod as ended

from finetune_operator.api.failures import Budget
from finetune_operator.api.types import (
    Failure,
    FineTuneJobStatus,
    PastFailure,
    Progress,
    Restarts,
    ResumedFrom,
    StageName,
)
from finetune_operator.policies.attempts import running
from finetune_operator.policies.history import (
    MAX_PAST_FAILURES,
    failures_in_a_row,
    resumption_changes,
    spend,
    tell_skipped,
    tell_start,
)
from finetune_operator.policies.numbers import reported_start
from finetune_operator.reports import ResumedReport, read_progress
from finetune_operator.status import decide

P, T = StageName.PREPARE, StageName.TRAIN


def past(attempt: int = 0, step: int | None = 50, stage: StageName = T, **fields: Any) -> Any:
    known = {"failure_class": "CudaOom", "stage": stage, "attempt": attempt, "step": step}
    return PastFailure(**{**known, **fields})


def failure(step: int | None = 50, stage: StageName = T, **fields: Any) -> Failure:
    return Failure(failure_class="CudaOom", stage=stage, attempt=9, step=step, at=NOW, **fields)


def test_a_restart_is_counted_and_its_failure_remembered_in_one_change() -> None:
    told = failure(node="n2", rank=1, message="long", lines=("x",))
    changes = spend(FineTuneJobStatus(), told, Budget.PROGRAM)
    assert changes["restarts"].wire() == {"program": 1, "infrastructure": 0, "total": 1}
    (kept,) = changes["past_failures"]
    assert kept.wire() == {
        "class": "CudaOom",
        "stage": "train",
        "attempt": 9,
        "step": 50,
        "node": "n2",
        "at": "2026-11-23T12:00:00Z",
        "budget": "Program",
    }
    again = spend(FineTuneJobStatus(**changes), told, Budget.INFRASTRUCTURE)
    assert again["restarts"].wire() == {"program": 1, "infrastructure": 1, "total": 2}
    assert [each.budget for each in again["past_failures"]] == ["Program", "Infrastructure"]


def test_only_the_newest_failures_are_remembered_and_all_are_counted() -> None:
    status = FineTuneJobStatus()
    for step in range(25):
        status = status.model_copy(update=spend(status, failure(step), Budget.INFRASTRUCTURE))
    assert status.restarts is not None and status.restarts.infrastructure == 25
    assert [each.step for each in status.past_failures or ()] == list(range(15, 25))
    assert MAX_PAST_FAILURES == 10


@pytest.mark.parametrize(
    ("steps", "now", "count"),
    [
        pytest.param([], 50, 0, id="the first failure"),
        pytest.param([50], 50, 1, id="again at the same step"),
        pytest.param([50], 51, 0, id="one step further"),
        pytest.param([50, 50, 50], 50, 3, id="three times already"),
        pytest.param([10, 50, 20], 30, 2, id="further than the last one, but not than ever"),
        pytest.param([50, 50, 60], 60, 1, id="counted since the last progress"),
        pytest.param([None], 1, 0, id="one that never reported, then a step"),
        pytest.param([None, None], None, 2, id="none ever reported"),
        pytest.param([50], None, 1, id="this one never reported"),
    ],
)
def test_failures_in_a_row_are_those_since_training_last_got_further(
    steps: list[int | None], now: int | None, count: int
) -> None:
    status = FineTuneJobStatus(past_failures=tuple(past(step=step) for step in steps))
    assert failures_in_a_row(status, failure(now)) == count


def test_another_stage_starts_a_row_of_its_own() -> None:
    status = FineTuneJobStatus(past_failures=(past(step=None, stage=P), past(step=None, stage=P)))
    assert failures_in_a_row(status, failure(None, P)) == 2
    assert failures_in_a_row(status, failure(None)) == 0


def resumed(step: int, attempt: int | None = 0, now: int = 1, **status: Any) -> dict[str, Any]:
    facts = make_facts(status_in(T, attempt=now, **status))
    return resumption_changes(facts, ResumedReport(attempt=attempt, step=step))


def test_a_resumption_says_from_where_and_what_the_attempts_before_lost() -> None:
    changes = resumed(
        40,
        now=2,
        past_failures=(past(0, 50), past(1, 45)),
        restarts=Restarts(program=2, infrastructure=0),
    )
    assert changes["resumed_from"] == ResumedFrom(attempt=0, step=40)
    assert [each.steps_redone for each in changes["past_failures"]] == [10, 5]
    assert changes["restarts"] == Restarts(program=2, infrastructure=0, steps_redone=15)


def test_a_training_that_begins_anew_has_lost_everything() -> None:
    changes = resumed(0, None, past_failures=(past(0, 50),), restarts=Restarts(program=1))
    assert changes["resumed_from"] == ResumedFrom(step=0)
    assert changes["restarts"].steps_redone == 50


def test_what_was_priced_keeps_its_price_and_the_sum_grows() -> None:
    changes = resumed(
        60,
        1,
        now=2,
        past_failures=(past(0, 50, steps_redone=10), past(1, 67)),
        restarts=Restarts(program=2, steps_redone=10),
    )
    assert [each.steps_redone for each in changes["past_failures"]] == [10, 7]
    assert changes["restarts"].steps_redone == 17


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param((past(0, None),), id="it never reported a step"),
        pytest.param((past(0, 30),), id="its last report is older than its checkpoint"),
        pytest.param((past(0, None, stage=P),), id="it was no training"),
    ],
)
def test_what_is_not_known_to_be_lost_costs_nothing(failures: tuple[PastFailure, ...]) -> None:
    changes = resumed(40, past_failures=failures, restarts=Restarts(program=1))
    assert not changes.get("restarts", Restarts()).steps_redone


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(status_in(T, attempt=0), id="nothing came before attempt 0"),
        pytest.param(status_in(T, attempt=1, resumed_from=ResumedFrom(step=4)), id="told already"),
        pytest.param(status_in(StageName.EXPORT, export_attempt=1), id="export resumes nothing"),
    ],
)
def test_a_resumption_is_told_once_and_by_training_only(status: FineTuneJobStatus) -> None:
    assert resumption_changes(make_facts(status), ResumedReport(attempt=0, step=40)) == {}
    assert resumption_changes(make_facts(status), None) == {}


REPORT = b'{"attempt": 1, "step": 41, "updatedAt": 1, "resumedFrom": {"attempt": 0, "step": 40}}'
WORDS = last_words(T, "failed", 1, resumedFrom={"attempt": 0, "step": 39})


@pytest.mark.parametrize(
    ("report", "words", "step"),
    [
        pytest.param(REPORT, None, 40, id="by its report"),
        pytest.param(None, WORDS, 39, id="by its last words, if it ended before it was asked"),
        pytest.param(REPORT.replace(b'"attempt": 1', b'"attempt": 0'), None, None, id="stale"),
        pytest.param(REPORT.replace(b'"step": 40', b'"step": -1'), None, None, id="nonsense"),
    ],
)
def test_an_attempt_tells_its_start(report: bytes | None, words: Any, step: int | None) -> None:
    facts = make_facts(
        status_in(T, attempt=1),
        jobs=(make_child_job(T, 1),),
        evidence=(ended(0, attempt=1, code=1, words=words),) if words else (),
        progress=read_progress(report) if report else None,
    )
    start = reported_start(facts)
    assert (start and start.step) == step


def test_a_running_attempt_says_in_one_sentence_where_it_went_on_and_what_that_cost() -> None:
    status = status_in(
        T, attempt=1, past_failures=(past(0, 50),), restarts=Restarts(program=1, infrastructure=0)
    )
    pods = tuple(make_pod(index, attempt=1) for index in (0, 1))
    facts = make_facts(
        status, jobs=(make_child_job(T, 1),), pods=pods, progress=read_progress(REPORT)
    )
    assert running(facts).message == (
        "all ranks train; attempt 1 went on from step 40; 1 restart so far, 10 steps trained again"
    )
    assert tell_start(status) == ""
    suspended = status_in(T, attempt=2, resumed_from=ResumedFrom(attempt=1, step=7))
    assert tell_start(suspended) == "; attempt 2 went on from step 7"


@pytest.mark.parametrize(
    ("progress", "sentence"),
    [
        (None, ""),
        (Progress(step=9), ""),
        (Progress(skipped={"lossScale": 3, "noTokens": 1}), ""),
        (
            Progress(skipped={"nonfinite": 1}, last_bad_step=18),
            "; 1 step left out (1 not finite), the last for its numbers is step 18",
        ),
        (
            Progress(skipped={"passedOver": 10, "lossSpike": 1, "nonfinite": 2}, loss_spikes=1),
            "; 13 steps left out (2 not finite, 1 with a loss spike, 10 passed over after going "
            "back)",
        ),
        (Progress(loss_spikes=4), "; 4 loss spikes trained on"),
    ],
)
def test_steps_that_were_left_out_are_told_in_the_sentence(
    progress: Progress | None, sentence: str
) -> None:
    assert tell_skipped(FineTuneJobStatus(progress=progress)) == sentence


def test_the_first_step_that_is_left_out_is_an_event() -> None:
    def told(**fields: Any) -> Any:
        told = {"attempt": 0, "step": 4, "updatedAt": 1795400000, **fields}
        report = read_progress(json.dumps(told).encode())
        job, pods = make_child_job(), tuple(make_pod(n) for n in (0, 1))
        return make_facts(status_in(T), jobs=(job,), pods=pods, progress=report)

    bad = {"skipped": {"nonfinite": 1}, "lastBadStep": 3}
    calm, warned = running(told()), running(told(**bad))
    assert (calm.reason, warned.reason) == ("Training", "StepsSkipped")
    assert warned.message == (
        "all ranks train; 1 step left out (1 not finite), the last for its numbers is step 3"
    )
    event = decide(told(**bad)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "StepsSkipped")


def test_a_damaged_checkpoint_that_was_passed_over_is_an_event() -> None:
    fault = "step 50 of attempt 0: rank-1.safetensors does not match its hash"
    start = {"attempt": 0, "step": 40, "damaged": [fault]}
    told = {"attempt": 1, "step": 41, "updatedAt": 1795400000, "resumedFrom": start}
    report = read_progress(json.dumps(told).encode())
    job, pods = make_child_job(T, 1), tuple(make_pod(n, attempt=1) for n in (0, 1))
    facts = make_facts(status_in(T, attempt=1), jobs=(job,), pods=pods, progress=report)
    decision = decide(facts)
    assert decision.status["resumedFrom"] == start
    assert decision.event is not None
    assert (decision.event["type"], decision.event["reason"]) == ("Warning", "CheckpointDamaged")
    assert running(facts).message == (
        "all ranks train; attempt 1 went on from step 40, because newer checkpoints are damaged "
        f"({fault})"
    )


def test_a_job_that_succeeded_says_what_was_left_out_on_the_way() -> None:
    progress = Progress(step=90, skipped={"nonfinite": 2}, last_bad_step=18)
    status = status_in(StageName.EXPORT, progress=progress)
    job = make_child_job(StageName.EXPORT, complete=True)
    message = decide(make_facts(status, jobs=(job,))).status["conditions"][0]["message"]
    assert message.startswith("the result lies at pvc://work/")
    assert message.endswith(
        "; 2 steps left out (2 not finite), the last for its numbers is step 18"
    )
