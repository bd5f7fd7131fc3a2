"""An elastic gang goes on with fewer workers where there is no room for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    KEY,
    NOW,
    PLATFORM,
    UID,
    main_condition,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    pending_pod,
    seconds,
    status_in,
)
from unit.operator.policies.elastic_gangs import SHRINK, T, resize, resolved, spec, trains, unplaced

from finetune_operator.api.types import FineTuneJobStatus
from finetune_operator.objects.train_job import build_train_job
from finetune_operator.plan import plan_training
from finetune_operator.policies.elastic import fewer, seconds_until_fewer
from finetune_operator.status import decide


@pytest.mark.parametrize(
    ("wish", "gang", "size"),
    [
        pytest.param(spec(), unplaced(3, 4), 3, id="what found a node goes on"),
        pytest.param(spec(batch=32), unplaced(3, 4), 2, id="three cannot share a batch of 32"),
        pytest.param(spec(min=2), unplaced(1, 4), None, id="fewer than min may not"),
        pytest.param(spec(), unplaced(0, 4), None, id="no room at all is no size"),
        pytest.param(spec(maxResizes=0), unplaced(3, 4), None, id="no resize is left"),
        pytest.param(spec(), unplaced(4, 4), None, id="all have a node: something else is missing"),
        pytest.param(
            spec(),
            {
                "jobs": (make_child_job(T, parallelism=4, created=NOW - seconds(SHRINK)),),
                "pods": tuple(
                    pending_pod(n, node=f"n{n}", waiting=("ErrImagePull", "gone")) for n in range(4)
                ),
            },
            None,
            id="fewer pods pull no image either",
        ),
        pytest.param(
            spec(),
            {
                "jobs": (make_child_job(T, parallelism=4, created=NOW - seconds(SHRINK)),),
                "pods": (
                    *(make_pod(n) for n in range(3)),
                    pending_pod(3, unscheduled=("SchedulingGated", "blocked", NOW)),
                ),
            },
            None,
            id="a scheduling gate is no lack of room",
        ),
        pytest.param(
            spec(),
            {
                "jobs": (make_child_job(T, parallelism=4, created=NOW - seconds(SHRINK)),),
                "pods": tuple(make_pod(n) for n in range(2)),
                "warning": ("FailedCreate", "exceeded quota: gpus"),
            },
            2,
            id="the namespace's quota allows two",
        ),
    ],
)
def test_how_many_go_on(wish: dict[str, Any], gang: dict[str, Any], size: int | None) -> None:
    change = fewer(make_facts(status_in(T, resolved=resolved()), spec=wish, **gang))
    assert (change and change.workers) == size


@pytest.mark.parametrize(
    ("wish", "gang", "left"),
    [
        pytest.param(spec(), unplaced(3, 4, age=20), 40, id="it waits a while"),
        pytest.param(
            {**spec(), "startDeadlineSeconds": 30}, unplaced(3, 4, age=20), 10,
            id="no longer than the deadline of the gang",
        ),
        pytest.param(
            spec(), unplaced(3, 4, age=900, started=NOW - seconds(15)), 45,
            id="from its admission on",
        ),
        pytest.param(spec(), unplaced(0, 4, suspended=True), None, id="a queue holds it whole"),
        pytest.param(make_spec(), unplaced(1, 2), None, id="a rigid gang never"),
    ],
)  # fmt: skip
def test_when_it_stops_waiting(
    wish: dict[str, Any], gang: dict[str, Any], left: float | None
) -> None:
    assert seconds_until_fewer(make_facts(status_in(T), spec=wish, **gang)) == left


def test_a_gang_without_room_goes_on_smaller_and_every_later_plan_says_so() -> None:
    facts = make_facts(
        status_in(T, resolved=resolved(), start_timeouts=3),
        spec=spec(),
        **unplaced(3, 4),
    )
    decision = decide(facts)
    status = FineTuneJobStatus.model_validate(decision.status)
    assert main_condition(decision.status)["reason"] == "Resized"
    assert (status.pending_reason or "").startswith(
        "going on with 3 instead of 4 workers (4 wanted): 1 of 4 pods cannot be scheduled: 0/3 "
    )
    assert (status.next_attempt_time, status.start_timeouts) == (NOW, None)
    assert status.restarts and (status.restarts.resizes, status.restarts.total) == (1, 0)
    assert decision.event and decision.event["reason"] == "Resized"

    plan = plan_training(KEY, UID, spec(), status, PLATFORM, {})
    assert (plan.wanted, plan.pods(T), plan.resolved.workers) == (4, 3, 3)
    assert (plan.resolved.world_size, plan.resolved.accumulation) == (3, 16)
    assert plan.resolved.global_batch_size == 48
    assert "1 of 4 pods" in (plan.resolved.reasons or {})["workers"]
    assert plan.run_config["workers"]["count"] == 3
    job = build_train_job(plan, 1)["spec"]
    assert (job["completions"], job["parallelism"]) == (3, 3)
    written = status.model_copy(update={"resolved": plan.resolved})
    again = FineTuneJobStatus.model_validate(written.wire())
    assert plan_training(KEY, UID, spec(), again, PLATFORM, {}).resolved == plan.resolved

    ahead = decide(make_facts(status, spec=spec())).status
    assert (ahead["attempt"], ahead["resolved"]["workers"]) == (1, 3)
    assert main_condition(ahead)["message"] == "waiting for 3 training pods (3 of 4 workers)"


def test_another_wish_makes_a_resize_void() -> None:
    status = status_in(T, resolved=resolved(resize(4, 2)))
    assert plan_training(KEY, UID, spec(), status, PLATFORM, {}).pods(T) == 2
    assert plan_training(KEY, UID, spec(3), status, PLATFORM, {}).pods(T) == 3


def test_the_micro_batch_does_not_grow_when_the_gang_shrinks() -> None:
    wish = spec(batch=32)
    wish["training"].pop("microBatchSize")
    wish["data"]["sequenceLength"] = 64
    full = plan_training(KEY, UID, wish, status_in(T), PLATFORM, {}).resolved
    less = plan_training(
        KEY, UID, wish, status_in(T, resolved=resolved(resize(4, 1), step=0)), PLATFORM, {}
    ).resolved
    assert (full.micro_batch_size, full.accumulation) == (8, 1)
    assert (less.micro_batch_size, less.accumulation) == (8, 4)


def test_a_bound_that_was_changed_to_one_that_cannot_share_the_batch_is_told() -> None:
    wish = make_spec(workers={"count": 4}, recovery={"elastic": {"min": 3}})
    wish["training"] = {"steps": 90}
    status = trains().status
    assert status.resolved
    settled = status.model_copy(
        update={"resolved": status.resolved.model_copy(update={"global_batch_size": 16})}
    )
    facts = make_facts(
        settled,
        spec=wish,
        jobs=(make_child_job(T, parallelism=4),),
        pods=tuple(make_pod(n) for n in range(4)),
    )
    decision = decide(replace(facts, progress=None))
    valid = main_condition(decision.status, "SpecValid")
    assert (valid["status"], valid["reason"]) == ("False", "BatchDoesNotFit")
    assert valid["message"].startswith("spec.recovery.elastic.min: 3 workers cannot share the")
    assert "use one of 1, 2, 4" in valid["message"]
    assert main_condition(decision.status)["reason"] == "Training", "the gang goes on"
