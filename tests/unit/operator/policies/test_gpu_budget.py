"""GPU-hours: of a job, of its namespace, and what happens once they are used up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    main_condition,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Cause,
    Condition,
    FineTuneJobStatus,
    Goodput,
    Phase,
    Reason,
    StageName,
    TimeSpent,
)
from finetune_operator.policies.facts import Facts, NamespaceBudget, State
from finetune_operator.policies.gpu_budget import read_hours, seconds_until_spent, used_gpu_seconds
from finetune_operator.status import decide, judge

T = StageName.TRAIN
GPUS = {"ranksPerWorker": None, "gpusPerWorker": 4}
JOB, PODS = make_child_job(T), (make_pod(0), make_pod(1))
READY = Condition(
    type="GangReady",
    status="True",
    reason="Training",
    message="",
    last_transition_time=NOW - seconds(50),
)


def training(used: int = 3600, until: float = 0, **fields: Any) -> FineTuneJobStatus:
    """A gang that trains; its account is ``until`` seconds old."""
    known = Goodput(
        until=NOW - seconds(until),
        current=Cause.PRODUCTIVE,
        seconds=TimeSpent(productive=int(100 - until)),
        attempt=TimeSpent(),
        gpu_seconds=used,
    )
    ready = {"phase": Phase.TRAINING, "conditions": (READY,)}
    return status_in(T, goodput=known, **{**ready, **fields})


def facts_of(
    status: FineTuneJobStatus,
    hours: str | None = None,
    *,
    shared: NamespaceBudget | None = None,
    here: bool = True,
    **spec: Any,
) -> Facts:
    budget = {"budget": {"gpuHours": hours}} if hours else {}
    facts = make_facts(
        status,
        jobs=(JOB,) if here else (),
        pods=PODS if here else (),
        spec=make_spec(**{"workers": GPUS, **budget, **spec}),
    )
    return replace(facts, namespace_budget=shared)


def test_while_there_are_hours_left_nothing_happens_and_the_end_is_not_missed() -> None:
    facts = facts_of(training(used=3000), "1")
    assert judge(facts).reason == Reason.TRAINING
    assert seconds_until_spent(facts) == 600 / 8 + 0.5


def test_time_since_the_last_write_counts_too() -> None:
    facts = facts_of(training(used=3000, until=20), "1")
    assert used_gpu_seconds(facts) == 3000 + 20 * 8
    assert judge(facts_of(training(used=3480, until=20), "1")).reason == Reason.BUDGET_EXCEEDED


def test_used_up_hours_end_the_gang_with_a_checkpoint_and_hold_the_job() -> None:
    facts = facts_of(training(), "1")
    verdict = judge(facts)
    assert (verdict.reason, verdict.state, verdict.phase) == (
        Reason.BUDGET_EXCEEDED, State.MOVING, Phase.TRAINING,
    )  # fmt: skip
    assert [(a.verb.value, a.name) for a in verdict.actions] == [("delete", "demo-a0")]
    assert verdict.message == (
        "spec.budget.gpuHours: the 1 GPU-hours of this job are used up: saving a checkpoint and "
        "giving the pods back"
    )
    stopped = FineTuneJobStatus.model_validate(decide(facts).status)
    held = decide(facts_of(stopped, "1", here=False)).status
    assert (held["phase"], held["suspendTime"]) == ("Suspended", "2026-11-23T12:00:00Z")
    assert held["pendingReason"] == (
        "spec.budget.gpuHours: the 1 GPU-hours of this job are used up (1 by this job): it waits, "
        "and goes on from its newest checkpoint once you raise spec.budget.gpuHours"
    )
    assert main_condition(held, "Stalled")["status"] == "True"
    assert main_condition(held, "Stalled")["reason"] == "BudgetExceeded"
    assert main_condition(held, "Failed")["status"] == "False" and "restarts" not in held
    assert held["goodput"]["current"] == "suspended"


def held_job(**fields: Any) -> FineTuneJobStatus:
    conditions = (replace_reason("BudgetExceeded"),)
    account = Goodput(
        until=NOW - seconds(30),
        current=Cause.SUSPENDED,
        seconds=TimeSpent(productive=70),
        gpu_seconds=3600,
    )
    known = {
        "phase": Phase.SUSPENDED, "suspend_time": NOW - seconds(30), "job_uid": "uid-of-demo-a0",
        "conditions": conditions, "goodput": account,
    }  # fmt: skip
    return status_in(T, **{**known, **fields})


def replace_reason(reason: str) -> Condition:
    return READY.model_copy(update={"type": "Reconciling", "status": "False", "reason": reason})


def test_a_held_job_is_one_warning_with_what_to_do() -> None:
    going = decide(facts_of(training(), "1"))
    assert going.event is None
    stopped = FineTuneJobStatus.model_validate(going.status)
    event = decide(facts_of(stopped, "1", here=False)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "BudgetExceeded")
    assert event["message"].endswith("once you raise spec.budget.gpuHours")


def test_a_held_job_is_at_rest() -> None:
    once = FineTuneJobStatus.model_validate(decide(facts_of(held_job(), "1", here=False)).status)
    again = facts_of(once, "1", here=False)
    assert decide(again).status == again.job.status and decide(again).again_after


def test_more_hours_let_it_go_on_with_the_next_attempt_and_no_restart_is_paid() -> None:
    resumed = FineTuneJobStatus.model_validate(decide(facts_of(held_job(), "2", here=False)).status)
    assert resumed.suspend_time is None and resumed.suspended_seconds == 30
    following = decide(facts_of(resumed, "2", here=False)).status
    assert following["attempt"] == 1 and "restarts" not in following
    assert following["goodput"]["seconds"]["suspended"] == 30


def test_more_hours_while_the_pods_still_end_let_it_go_on_too() -> None:
    stopping = training(conditions=(replace_reason("BudgetExceeded"),))
    assert judge(facts_of(stopping, "2")).reason == Reason.RESUMED


def test_the_users_own_suspension_is_told_before_the_budget() -> None:
    assert judge(facts_of(training(), "1", suspend=True)).reason == Reason.SUSPENDING


@pytest.mark.parametrize(
    ("others", "reason"), [(0, Reason.TRAINING), (7200 - 3600, Reason.BUDGET_EXCEEDED)]
)
def test_jobs_of_a_namespace_share_its_hours(others: int, reason: Reason) -> None:
    facts = facts_of(training(), shared=NamespaceBudget(2.0, others))
    verdict = judge(facts)
    assert verdict.reason == reason
    assert (seconds_until_spent(facts) or 0) <= 30, "others use them too"
    if reason is Reason.BUDGET_EXCEEDED:
        assert verdict.message.startswith(
            "ConfigMap finetune-budget: the 2 GPU-hours of namespace team-a are used up"
        )


def test_nothing_is_begun_with_hours_that_are_not_there() -> None:
    facts = facts_of(status_in(T), shared=NamespaceBudget(0.0, 0), here=False)
    verdict = judge(facts)
    assert (verdict.reason, verdict.actions) == (Reason.BUDGET_EXCEEDED, ())


def test_a_budget_that_is_no_number_starts_nothing_and_stops_nothing() -> None:
    unreadable = NamespaceBudget(None, 0)
    assert judge(facts_of(training(), shared=unreadable)).reason == Reason.TRAINING
    verdict = judge(facts_of(status_in(T), shared=unreadable, here=False))
    assert (verdict.reason, verdict.state) == (Reason.BUDGET_INVALID, State.STUCK)
    assert verdict.pending_reason and "gpuHours" in verdict.pending_reason


@pytest.mark.parametrize(
    ("text", "hours"),
    [("100", 100.0), (" 0.5\n", 0.5), ("0", 0.0), ("", None), ("-1", None), ("1e99", None),
     ("ten", None), ("nan", None)],
)  # fmt: skip
def test_hours_are_read_or_refused(text: str, hours: float | None) -> None:
    assert read_hours(text) == hours


def test_ranks_on_cpus_use_no_hours() -> None:
    facts = make_facts(training(used=999_999), jobs=(JOB,), pods=PODS, spec=make_spec())
    facts = replace(facts, namespace_budget=NamespaceBudget(1.0, 0))
    assert judge(facts).reason == Reason.TRAINING and seconds_until_spent(facts) is None


def test_training_that_is_done_is_exported_whatever_it_used() -> None:
    facts = facts_of(training(), "1")
    done = replace(facts, observed=replace(facts.observed, jobs=(replace(JOB, complete=True),)))
    assert judge(done).reason == Reason.EXPORTING


def test_a_pod_holds_its_gpus_from_its_node_to_its_end() -> None:
    pods = (
        make_pod(0, scheduled=NOW - seconds(8)),
        ended_pod(1, scheduled=NOW - seconds(500), after=4),  # since the entry, until 6 s ago
    )
    facts = facts_of(training(used=0, until=50))
    facts = replace(facts, observed=replace(facts.observed, pods=pods))
    assert used_gpu_seconds(facts) == (8 + 44) * 4


def test_a_pod_that_is_gone_without_a_word_held_them_until_now() -> None:
    facts = facts_of(training(used=0, until=50))
    facts = replace(facts, observed=replace(facts.observed, pods=(make_pod(0),)))
    assert used_gpu_seconds(facts) == (20 + 50) * 4


def test_a_pod_on_a_lost_node_uses_hours_until_it_was_given_up() -> None:
    """Its object stays until somebody takes the node away; the next gang has other pods."""
    facts = facts_of(training(used=0, until=50), recovery={"nodeLostAfterSeconds": 10})
    dead = make_pod(0, silent=NOW - seconds(40), ready=False, scheduled=NOW - seconds(90))
    fresh = make_pod(1, scheduled=None)
    facts = replace(facts, observed=replace(facts.observed, pods=(dead, fresh)))
    assert used_gpu_seconds(facts) == (50 - 40 + 10) * 4
