"""The rules in their order: each row is decided by its rule."""

from __future__ import annotations

from typing import Any

import pytest
from unit.operator.status.rows import ROWS

from finetune_operator.api.types import Reason
from finetune_operator.policies.facts import Facts, Verb
from finetune_operator.status import RULES, decide, judge


@pytest.mark.parametrize(("facts", "expected"), ROWS)
def test_the_first_rule_that_fits_decides(facts: Facts, expected: tuple[Any, ...]) -> None:
    rule = next(rule for rule in RULES if rule(facts) is not None)
    verdict = judge(facts)
    actions = ", ".join(f"{a.verb.value} {a.kind} {a.name}" for a in verdict.actions)
    seen = (rule.__name__, verdict.phase, verdict.state, str(verdict.reason), actions)
    assert seen == expected


def test_every_rule_has_a_row_and_the_rows_stand_in_the_order_of_the_rules() -> None:
    names = [row.values[1][0] for row in ROWS]
    order = [rule.__name__ for rule in RULES]
    assert list(dict.fromkeys(names)) == order


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_creating_deleting_restarting_and_ending_anything_is_irrevocable(facts: Facts) -> None:
    decision, verdict = decide(facts), judge(facts)
    acts = any(action.verb in (Verb.CREATE, Verb.DELETE) for action in verdict.actions)
    ends = verdict.state.terminal and facts.status.completion_time is None
    done = any(
        decision.status.get(name) != facts.job.status.get(name)
        for name in ("prepared", "trained", "scored", "restarts")
    )
    assert decision.irrevocable == (acts or ends or done)


def test_all_reasons_are_in_the_vocabulary() -> None:
    from finetune_operator.api.conditions import REASONS

    used = {str(judge(row.values[0]).reason) for row in ROWS}
    assert used - {"Failed"} <= REASONS
    assert Reason.STARTING in used
