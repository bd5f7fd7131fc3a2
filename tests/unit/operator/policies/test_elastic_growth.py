"""An elastic gang takes more workers after a good while."""

from __future__ import annotations

import pytest
from builders import KEY, PLATFORM, UID, ended_pod, main_condition, make_facts, make_pod, status_in
from unit.operator.policies.elastic_gangs import GROW, T, resize, spec, trains, unplaced

from finetune_operator.api.types import FineTuneJobStatus, Phase, Restarts
from finetune_operator.plan import plan_training
from finetune_operator.policies import elastic
from finetune_operator.policies.elastic import AGAINST_GROWTH, growth_wait, more, seconds_until_more
from finetune_operator.policies.facts import Facts
from finetune_operator.status import decide, judge

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


def test_only_the_newest_resizes_are_kept_and_all_are_counted() -> None:
    facts = trains(*(resize(4, 3, attempt=n) for n in range(10)), restarts=Restarts(resizes=12))
    change = more(facts)
    assert change
    changes = elastic.resize_changes(facts, change)
    kept = changes["resolved"].resizes
    assert [each.attempt for each in kept] == [*range(1, 10), 0] and len(kept) == 10
    assert changes["restarts"].resizes == 13
