"""How a job ends well."""

from __future__ import annotations

from builders import make_child_job, make_facts, status_in

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
