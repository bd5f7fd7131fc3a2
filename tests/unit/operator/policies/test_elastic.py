"""An elastic gang: fewer workers where there is no room, more after a good while."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import (
    KEY,
    NOW,
    PLATFORM,
    UID,
    ended_pod,
    main_condition,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    pending_pod,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Condition,
    Failure,
    FineTuneJobStatus,
    Phase,
    Progress,
    Resize,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.objects.train_job import build_train_job
from finetune_operator.plan import plan_training
from finetune_operator.policies import elastic
from finetune_operator.policies.elastic import (
    AGAINST_GROWTH,
    at_boundary,
    fewer,
    growth_wait,
    more,
    seconds_until_fewer,
    seconds_until_more,
)
from finetune_operator.policies.facts import Facts
from finetune_operator.policies.restart import restart_or_end
from finetune_operator.reports import read_progress
from finetune_operator.status import decide, judge

T = StageName.TRAIN
SHRINK, GROW = 60, 600
NO_NODE = ("Unschedulable", "0/3 nodes are available: 1 Insufficient nvidia.com/gpu.", NOW)


def spec(count: int = 4, *, batch: int = 48, queue: Any = None, **bounds: Any) -> dict[str, Any]:
    """Four workers with one rank each, one at least; the micro-batch is 1."""
    limits = {"min": 1, "shrinkAfterSeconds": SHRINK, "growAfterSeconds": GROW, **bounds}
    return make_spec(
        training={"globalBatchSize": batch, "microBatchSize": 1},
        workers={"count": count},
        checkpoint={"everySteps": 10},
        recovery={"elastic": limits},
        queue=queue,
    )


def resize(before: int, after: int, *, step: int = 0, ago: float = 3000, **fields: Any) -> Resize:
    known = {"attempt": 0, "wanted": 4, "reason": "1 of 4 pods cannot be scheduled"}
    return Resize(
        workers_before=before,
        workers=after,
        step=step,
        at=NOW - seconds(ago),
        **{**known, **fields},
    )


def resolved(*resizes: Resize, **fields: Any) -> Resolved:
    return Resolved(global_batch_size=48, resizes=resizes or None, **fields)


def unplaced(placed: int, of: int, *, age: float = SHRINK, **job: Any) -> dict[str, Any]:
    """A gang of which some pods have a node; ``age``: seconds since it was asked for."""
    up = tuple(make_pod(n, created=NOW - seconds(age)) for n in range(placed))
    rest = (
        pending_pod(n, unscheduled=NO_NODE, created=NOW - seconds(age)) for n in range(placed, of)
    )
    made = make_child_job(T, parallelism=of, created=NOW - seconds(age), **job)
    return {"jobs": (made,), "pods": (*up, *rest)}


def trains(
    *resizes: Resize,
    wish: dict[str, Any] | None = None,
    ready: float = GROW,
    step: int = 40,
    eta: int | None = 100_000,
    restarts: Restarts | None = None,
    heard: float = 0,
    **facts: Any,
) -> Facts:
    """A gang of the last resize that has been whole for ``ready`` seconds."""
    gang = Condition(
        type="GangReady",
        status="True",
        reason="Training",
        message="",
        last_transition_time=NOW - seconds(ready),
    )
    status = status_in(
        T,
        phase=Phase.TRAINING,
        conditions=(gang,),
        resolved=resolved(*resizes),
        restarts=restarts or Restarts(resizes=len(resizes)),
        progress=Progress(stage=T, step=step, steps=9000, eta_seconds=eta),
    )
    size = resizes[-1].workers if resizes else (wish or spec())["workers"]["count"]
    assert size
    known: dict[str, Any] = {
        "jobs": (make_child_job(T, parallelism=size),),
        "pods": tuple(make_pod(n) for n in range(size)),
        "progress": read_progress(
            json.dumps({"attempt": 0, "step": step, "updatedAt": NOW.timestamp() - heard}).encode()
        ),
    }
    return make_facts(status, spec=wish or spec(), **{**known, **facts})


# --- fewer ---


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


# --- more ---

GROWS = trains(resize(4, 3))


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        pytest.param(GROWS, 0, id="it has trained for long enough"),
        pytest.param(trains(resize(4, 3), ready=GROW - 7), 7, id="nearly"),
        pytest.param(trains(), None, id="it is as large as wished"),
        pytest.param(
            trains(resize(4, 3), wish=spec(min=3, max=4)), 0, id="max may be the wish itself"
        ),
        pytest.param(trains(wish=spec(max=6)), 0, id="it may be larger than the wish"),
        pytest.param(
            trains(resize(4, 3), wish=spec(queue={"name": "gold"})), None, id="it has quota now"
        ),
        pytest.param(
            trains(resize(4, 3), wish=spec(maxResizes=2)), None, id="it could not shrink again"
        ),
        pytest.param(trains(resize(4, 3), heard=3600), None, id="nobody knows whether it trains"),
        pytest.param(trains(resize(4, 3, step=31)), None, id="nine steps are no progress"),
        pytest.param(trains(resize(4, 3), eta=GROW - 1), None, id="it is nearly done"),
        pytest.param(
            trains(resize(4, 3), wish={**spec(), "activeDeadlineSeconds": GROW}),
            None,
            id="it may not take that long",
        ),
        pytest.param(trains(resize(4, 3), eta=None), 0, id="how long it takes is not known"),
        pytest.param(
            trains(resize(4, 3), resize(3, 4, step=20), resize(4, 3, step=20)),
            GROW,
            id="the last try was in vain: twice as long",
        ),
        pytest.param(
            trains(resize(4, 3), resize(3, 4, step=20), resize(4, 3, step=25)),
            0,
            id="the last try did steps",
        ),
    ],
)
def test_when_it_grows(facts: Facts, left: float | None) -> None:
    assert seconds_until_more(facts) == left


def test_each_rule_against_growth_has_a_case_of_its_own() -> None:
    """Each keeps a gang from growing that the others would let grow."""
    cases = {
        "is_as_large_as_it_gets": trains(),
        "queues": trains(resize(4, 3), wish=spec(queue={"name": "gold"})),
        "would_be_the_last_resize": trains(resize(4, 3), wish=spec(maxResizes=2)),
        "does_not_train": trains(resize(4, 3), heard=3600),
        "got_nowhere": trains(resize(4, 3, step=31)),
        "is_nearly_done": trains(resize(4, 3), eta=GROW - 1),
    }
    for name, facts in cases.items():
        limits = facts.spec.recovery.elastic
        assert limits
        assert [r.__name__ for r in AGAINST_GROWTH if r(facts, limits)] == [name]
    assert list(cases) == [rule.__name__ for rule in AGAINST_GROWTH]


def test_the_time_between_tries_doubles_up_to_a_day() -> None:
    tries = [resize(4, 3)]
    waits = []
    for _ in range(4):
        tries += [resize(3, 4), resize(4, 3)]
        facts = trains(*tries)
        limits = facts.spec.recovery.elastic
        assert limits
        waits.append(growth_wait(facts, limits))
    assert waits == [1200, 2400, 4800, 9600]
    long = limits.model_copy(update={"grow_after_seconds": 80_000})
    assert growth_wait(facts, long) == 86_400


def test_a_growing_gang_saves_ends_and_comes_back_larger() -> None:
    first = decide(GROWS)
    told = FineTuneJobStatus.model_validate(first.status)
    assert main_condition(first.status)["reason"] == "Resizing"
    assert told.phase is Phase.TRAINING and told.resolved and len(told.resolved.resizes or ()) == 1
    assert first.event and "before going on with 4 instead of 3 workers" in first.event["message"]
    live = {"jobs": GROWS.observed.jobs, "pods": GROWS.observed.pods, "spec": spec()}
    second = decide(make_facts(told, **live))
    assert second.status == first.status, "what is said first is done then"
    assert [(a.verb.value, a.name) for a in second.actions] == [("delete", "demo-a0")]

    saving = tuple(make_pod(n, deleting=True) for n in range(3))
    waiting = decide(make_facts(told, pods=saving, spec=spec()))
    assert (waiting.status, waiting.actions) == (first.status, ())
    gone = decide(make_facts(told, evidence=(ended_pod(0, code=75),), spec=spec()))
    status = FineTuneJobStatus.model_validate(gone.status)
    assert main_condition(gone.status)["reason"] == "Resized" and gone.irrevocable
    assert status.restarts and (status.restarts.resizes, status.restarts.total) == (2, 0)
    assert status.past_failures is None and status.failure is None, "it is no failure"
    assert gone.event is None
    ahead = decide(make_facts(status, spec=spec()))
    assert (ahead.status["attempt"], ahead.status["resolved"]["workers"]) == (1, 4)
    assert "workers" not in ahead.status["resolved"].get("reasons", {})


def test_a_growth_that_was_begun_ends_well_if_it_is_no_longer_wished() -> None:
    told = FineTuneJobStatus.model_validate(decide(GROWS).status)
    wish = spec(maxResizes=16)
    wish["recovery"]["elastic"] = None
    status = decide(make_facts(told, spec=wish)).status
    assert status["nextAttemptTime"] and main_condition(status)["reason"] == "Resized"
    larger = FineTuneJobStatus.model_validate(status)
    assert plan_training(KEY, UID, wish, larger, PLATFORM, {}).pods(T) == 4


def test_the_operator_looks_again_when_the_time_has_come() -> None:
    facts = trains(resize(4, 3), ready=GROW - 7)
    assert judge(facts).reason == "Training"
    assert decide(facts).again_after == 7
    waits = make_facts(status_in(T), spec=spec(), **unplaced(3, 4, age=20))
    assert decide(waits).again_after == 40


# --- where an attempt ends anyway ---

LOST = Failure(failure_class="Evicted", stage=T, attempt=0, message="gone", at=NOW)


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        pytest.param(trains(resize(4, 3, ago=GROW), jobs=(), pods=()), 4, id="long after"),
        pytest.param(trains(resize(4, 3, ago=GROW - 1), jobs=(), pods=()), None, id="soon after"),
        pytest.param(trains(resize(4, 3)), None, id="its pods are still there"),
        pytest.param(
            trains(resize(4, 3), wish=spec(maxResizes=2), jobs=(), pods=()), None, id="no more"
        ),
        pytest.param(
            trains(resize(4, 3), wish=spec(queue={"name": "gold"}), jobs=(), pods=()),
            4,
            id="it queues anew anyway",
        ),
        pytest.param(trains(jobs=(), pods=()), None, id="it is as large as wished"),
        pytest.param(trains(resize(4, 2), wish=spec(min=3)), 3, id="min was raised"),
        pytest.param(
            trains(resize(4, 6), wish=spec(min=3)), 4, id="max was lowered"
        ),
        pytest.param(
            trains(resize(4, 2), wish={**spec(), "recovery": {}}), 4, id="it is elastic no longer"
        ),
    ],
)  # fmt: skip
def test_a_boundary_that_comes_by_itself_costs_nothing(facts: Facts, size: int | None) -> None:
    change = at_boundary(facts)
    assert (change and change.workers) == size
    verdict = restart_or_end(facts, LOST)
    assert verdict.changes["restarts"].infrastructure == 1
    assert ("resolved" in verdict.changes) == (size is not None)
    if size is not None:
        assert f"; with {size} instead of " in verdict.message
        assert verdict.changes["resolved"].resizes[-1].workers == size


def test_a_job_that_slept_wakes_with_the_workers_it_names() -> None:
    status = status_in(
        T, phase=Phase.SUSPENDED, suspend_time=NOW - seconds(60), resolved=resolved(resize(4, 2))
    )
    woken = FineTuneJobStatus.model_validate(decide(make_facts(status, spec=spec())).status)
    assert plan_training(KEY, UID, spec(), woken, PLATFORM, {}).pods(T) == 4
    assert woken.restarts is None, "it costs none of maxResizes"


def test_only_the_newest_resizes_are_kept_and_all_are_counted() -> None:
    facts = trains(*(resize(4, 3, attempt=n) for n in range(10)), restarts=Restarts(resizes=12))
    change = more(facts)
    assert change
    changes = elastic.resize_changes(facts, change)
    kept = changes["resolved"].resizes
    assert [each.attempt for each in kept] == [*range(1, 10), 0] and len(kept) == 10
    assert changes["restarts"].resizes == 13


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
