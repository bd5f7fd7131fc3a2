"""Bad numbers end an attempt: go back and pass rows over, or end the job."""

from __future__ import annotations

from typing import Any

import pytest
from builders import KEY, UID, make_facts, make_spec, status_in

from finetune_operator.api.types import (
    Failure,
    FineTuneJobStatus,
    PassedOver,
    PastFailure,
    Phase,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.plan import Platform, plan_training
from finetune_operator.policies.facts import Facts, State
from finetune_operator.policies.restart import restart_or_end
from finetune_operator.policies.rollback import passed_over
from finetune_operator.settings import Settings

BACK = {"onNonFinite": "RollBack", "onLossSpike": "RollBack"}
T = StageName.TRAIN


def bad(name: str = "NonFinite", step: int | None = 41, attempt: int = 0, **fields: Any) -> Failure:
    known: dict[str, Any] = {"stage": T, "message": "so it is"}
    return Failure(failure_class=name, step=step, attempt=attempt, **{**known, **fields})


def over(first: int, last: int, attempt: int = 0, name: str = "NonFinite") -> PassedOver:
    return PassedOver(attempt=attempt, failure_class=name, first_step=first, last_step=last)


def facts(recovery: dict[str, Any] | None = None, *before: PassedOver, **status: Any) -> Facts:
    wish = make_spec(recovery=BACK if recovery is None else recovery, checkpoint={"everySteps": 10})
    known = status_in(T, resolved=Resolved(passed_over=before or None), **status)
    return make_facts(known, spec=wish)


@pytest.mark.parametrize(
    ("known", "failure", "expected"),
    [
        pytest.param(facts(), bad(), over(33, 42), id="ten steps, the bad one last"),
        pytest.param(facts(), bad("LossSpike"), over(33, 42, name="LossSpike"), id="a spike"),
        pytest.param(facts(), bad(step=3), over(1, 4), id="not before the first"),
        pytest.param(facts({**BACK, "rollBackSteps": 1}), bad(), over(42, 42), id="it alone"),
        pytest.param(
            facts(None, over(33, 42)), bad(step=42, attempt=1), over(34, 43, 1), id="the next step"
        ),
        pytest.param(facts(None, over(33, 42)), bad(attempt=1), None, id="was to be passed over"),
        pytest.param(
            facts({**BACK, "maxRollBacks": 1}, over(3, 12)), bad(attempt=1), None, id="once only"
        ),
        pytest.param(facts(), bad(step=None), None, id="at a step that nobody knows"),
        pytest.param(facts(), bad("Internal"), None, id="another failure"),
        pytest.param(facts(), bad(stage=StageName.EXPORT), None, id="another stage"),
        pytest.param(facts({"onNonFinite": "Skip"}), bad(), None, id="Skip"),
        pytest.param(facts({"onNonFinite": "Stop"}), bad(), None, id="Stop"),
        pytest.param(facts({"onNonFinite": "RollBack"}), bad("LossSpike"), None, id="of the other"),
    ],
)
def test_the_next_attempt_passes_over(
    known: Facts, failure: Failure, expected: PassedOver | None
) -> None:
    assert passed_over(known, failure) == expected


def test_a_roll_back_is_told_in_one_sentence_and_paid_by_nobody() -> None:
    verdict = restart_or_end(facts(restarts=Restarts(program=2)), bad())
    assert (verdict.phase, verdict.state) == (Phase.RESTARTING, State.MOVING)
    assert verdict.message == (
        "trying again in 5 s (from the newest checkpoint before steps 33 to 42, passing over "
        "their rows: roll-back 1 of 3, spec.recovery.maxRollBacks): train failed with NonFinite: "
        "so it is"
    )
    restarts, (past,) = verdict.changes["restarts"], verdict.changes["past_failures"]
    assert (restarts.program, restarts.roll_backs, restarts.memory) == (2, 1, None)
    assert restarts.total == 3
    assert (past.failure_class, past.step, past.budget) == ("NonFinite", 41, None)
    assert verdict.changes["resolved"].passed_over == (over(33, 42),)


def ends(known: Facts, failure: Failure) -> tuple[str, str]:
    verdict = restart_or_end(known, failure)
    assert verdict.state is State.FAILED, verdict.message
    assert "restarts" not in verdict.changes, "nothing was spent"
    return str(verdict.reason), verdict.message


def test_stop_ends_the_job_at_its_first_bad_step_under_its_own_name() -> None:
    for name, field in (("NonFinite", "onNonFinite"), ("LossSpike", "onLossSpike")):
        reason, message = ends(facts({field: "Stop"}), bad(name))
        assert reason == name
        assert message == f"train failed with {name}: so it is; spec.recovery.{field} is Stop"


def test_the_last_roll_back_is_followed_by_the_end() -> None:
    done = tuple(over(n, n, n) for n in (1, 5, 9))
    reason, message = ends(facts(None, *done), bad(attempt=3))
    assert reason == "NonFinite"
    assert message.endswith("; 3 roll-backs did not help (spec.recovery.maxRollBacks: 3)")


def test_the_user_may_allow_more_of_them() -> None:
    done = tuple(over(n, n, n) for n in (1, 5, 9))
    verdict = restart_or_end(facts({**BACK, "maxRollBacks": 4}, *done), bad(attempt=3))
    assert "roll-back 4 of 4" in verdict.message


def test_a_step_that_fails_although_it_is_passed_over_ends_the_job() -> None:
    """As with a trainer that does not know what passing over is."""
    past = PastFailure(failure_class="NonFinite", stage=T, attempt=0, step=41)
    known = facts(None, over(33, 42), past_failures=(past,))
    assert ends(known, bad(attempt=1))[0] == "RepeatedFailure"


def test_no_restart_wanted_means_no_roll_back_either() -> None:
    assert ends(facts({**BACK, "maxRestarts": 0}), bad())[0] == "NonFinite"


def test_too_many_skipped_steps_are_a_failure_of_the_program() -> None:
    verdict = restart_or_end(facts({}), bad())
    assert "restart 1 of 3 after failures of the program" in verdict.message
    past = PastFailure(failure_class="NonFinite", stage=T, attempt=0, step=41)
    assert ends(facts({}, past_failures=(past,)), bad(attempt=1))[0] == "RepeatedFailure"


def test_every_later_attempt_is_told_all_that_is_passed_over() -> None:
    status = facts().status
    for attempt, step in enumerate((41, 60)):
        wish = make_spec(recovery=BACK, checkpoint={"everySteps": 10})
        known = make_facts(status.model_copy(update={"attempt": attempt}), spec=wish)
        changes = restart_or_end(known, bad(step=step, attempt=attempt)).changes
        status = FineTuneJobStatus.model_validate(
            status.model_copy(update={"resolved": changes["resolved"]}).wire()
        )
        plan = plan_training(KEY, UID, wish, status, Platform(Settings()), {})
        assert plan.resolved.passed_over == changes["resolved"].passed_over, "write-ahead keeps it"
    assert plan.run_config["recovery"]["passedOver"] == [
        {"attempt": 0, "firstStep": 33, "lastStep": 42},
        {"attempt": 1, "firstStep": 52, "lastStep": 61},
    ]
    assert plan.run_config["recovery"]["onNonFinite"] == "RollBack"
