"""Where an attempt ends anyway, an elastic gang changes its size for nothing."""

from __future__ import annotations

import pytest
from builders import KEY, NOW, PLATFORM, UID, make_facts, seconds, status_in
from unit.operator.policies.elastic_gangs import GROW, T, resize, resolved, spec, trains

from finetune_operator.api.types import Failure, FineTuneJobStatus, Phase, StageName
from finetune_operator.plan import plan_training
from finetune_operator.policies.elastic import at_boundary
from finetune_operator.policies.facts import Facts
from finetune_operator.policies.restart import restart_or_end
from finetune_operator.status import decide

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


def test_training_that_is_over_is_not_said_to_have_had_more_workers() -> None:
    """The job slept in export: its gang had the size that it had."""
    status = status_in(
        StageName.EXPORT,
        phase=Phase.SUSPENDED,
        suspend_time=NOW - seconds(60),
        resolved=resolved(resize(4, 2)),
    )
    woken = FineTuneJobStatus.model_validate(decide(make_facts(status, spec=spec())).status)
    assert woken.suspend_time is None, "it has woken"
    assert plan_training(KEY, UID, spec(), woken, PLATFORM, {}).pods(T) == 2
    assert woken.resolved is not None
    assert [one.workers for one in woken.resolved.resizes or ()] == [2]
