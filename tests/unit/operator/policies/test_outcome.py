"""How a job ends well."""

from __future__ import annotations

from typing import Any

import pytest
from builders import ended_pod, make_child_job, make_facts, make_pod, status_in

from finetune_operator.api.types import Phase, StageName
from finetune_operator.policies.facts import Verb
from finetune_operator.status import judge


def test_a_job_of_an_earlier_stage_that_came_back_goes_before_success_is_told() -> None:
    """Whoever brought it back: it may start a pod at any moment."""
    exported = make_child_job(StageName.EXPORT, complete=True)
    stray = make_child_job(StageName.PREPARE)
    status = status_in(StageName.EXPORT)
    verdict = judge(make_facts(status, jobs=(exported, stray)))
    assert not verdict.state.terminal and verdict.message.startswith("published; waiting")
    assert [(each.verb, each.name) for each in verdict.actions] == [(Verb.DELETE, stray.name)]
    assert judge(make_facts(status, jobs=(exported,))).phase is Phase.SUCCEEDED


T = StageName.TRAIN
DEAD = (ended_pod(1, code=71), ended_pod(0, code=74))
GOOD = make_pod(0, phase="Succeeded")


@pytest.mark.parametrize(
    ("pods", "fields", "over"),
    [
        pytest.param(DEAD, {}, True, id="all have ended"),
        pytest.param((ended_pod(1, code=71), GOOD), {}, True, id="one of them badly"),
        pytest.param((make_pod(1, phase="Succeeded"), GOOD), {}, False, id="none badly"),
        pytest.param((ended_pod(1, code=71), make_pod(0)), {}, False, id="one runs"),
        pytest.param(DEAD[:1], {}, False, id="one may be about to come"),
        pytest.param((DEAD[0], ended_pod(0, deleting=True)), {}, False, id="one is deleted"),
        pytest.param(DEAD, {"suspended": True}, False, id="a queue has taken its quota back"),
        pytest.param(DEAD, {"deleting": True}, False, id="the Job goes"),
    ],
)
def test_a_gang_is_played_out_before_its_job_says_so(
    pods: tuple[Any, ...], fields: dict[str, Any], over: bool
) -> None:
    job = make_child_job(T, **fields)
    facts = make_facts(status_in(T), jobs=(job,), pods=pods)
    assert facts.is_played_out(job) is over
    assert (job in facts.live_jobs) is not (over or "deleting" in fields)


def test_the_next_gang_does_not_wait_for_the_word_of_the_last_ones_job() -> None:
    """Nor does it delete that Job, whose end is still to be counted by its controller."""
    status = status_in(T, attempt=1)
    verdict = judge(make_facts(status, jobs=(make_child_job(T, 0),), pods=DEAD))
    assert [(each.verb, each.kind) for each in verdict.actions if each.kind == "Job"] == [
        (Verb.CREATE, "Job")
    ]
