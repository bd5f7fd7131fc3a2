"""What a decision writes and when it writes nothing: a job comes to rest."""

from __future__ import annotations

import pytest
from builders import make_child_job, make_facts, make_pod, status_in
from unit.operator.status.cases import P, T
from unit.operator.status.rows import ROWS

from finetune_operator.api.types import FineTuneJobStatus
from finetune_operator.policies.facts import Facts
from finetune_operator.status import Decision, decide


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_a_status_that_is_read_back_comes_to_rest(facts: Facts) -> None:
    """While nothing happens in the cluster, a job writes at most three times and then never."""
    for _ in range(4):
        decision = decide(facts)
        if decision.status == facts.job.status:
            return
        facts = _read_back(facts, decision)
    pytest.fail(f"still writing: {decision.status}")


def _read_back(facts: Facts, decision: Decision) -> Facts:
    status = FineTuneJobStatus.model_validate(decision.status)
    return make_facts(
        status,
        jobs=facts.observed.jobs,
        pods=facts.observed.pods,
        spec=facts.job.spec,
        obstacle=facts.obstacle,
        refusal=facts.refusal,
        now=facts.now,
        progress=facts.progress,
        listening_since=facts.listening_since,
    )


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    decision = decide(make_facts(status_in(T), deleting=True))
    assert decision.actions == () and decision.status == status_in(T).wire()


def test_actions_never_go_along_with_a_change_of_the_status_that_they_rest_on() -> None:
    """What creates an attempt needs its number in the stored status."""
    decision = decide(make_facts())
    assert decision.status["prepareAttempt"] == 0
    assert decision.actions == ()


def test_the_uid_of_a_job_is_written_along_with_the_next_change_and_not_alone() -> None:
    status = FineTuneJobStatus.model_validate(decide(make_facts(status_in(P))).status)
    created = make_facts(status, jobs=(make_child_job(P),))
    assert decide(created).status == status.wire()
    started = make_facts(status, jobs=(make_child_job(P),), pods=(make_pod(0, P),))
    assert decide(started).status["prepareJobUID"] == "uid-of-demo-p0"
