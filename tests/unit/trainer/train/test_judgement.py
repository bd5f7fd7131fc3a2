"""What follows from a step's numbers, by policy."""

from __future__ import annotations

import math
from typing import Any

import pytest

from finetune_trainer.bad_numbers import BAD, LISTED, BadNumbers, Judgement
from finetune_trainer.config import Recovery
from finetune_trainer.engine import StepOutcome
from finetune_trainer.errors import LossSpike, NonFinite
from finetune_trainer.state import TrainState

GOOD = StepOutcome(True, 1.0)
NOT_APPLIED = StepOutcome(False, math.inf)
SEARCHING = StepOutcome(False, math.inf, searching_scale=True)
REFUSED = StepOutcome(False, math.nan, refused=True)


def numbers(state: TrainState | None = None, **recovery: Any) -> BadNumbers:
    settings = Recovery.model_validate({"lossSpike": {"windowSteps": 8}, **recovery})
    return BadNumbers(settings, state or TrainState(recent_losses=[1.0] * 8))


@pytest.mark.parametrize(
    ("recovery", "loss", "outcome", "skipped", "ends"),
    [
        pytest.param({}, 1.0, GOOD, None, None, id="a good step"),
        pytest.param({}, 1.0, None, "no_tokens", None, id="nothing to learn"),
        pytest.param({}, math.nan, NOT_APPLIED, "nonfinite", None, id="NaN is skipped"),
        pytest.param({}, 1.0, NOT_APPLIED, "nonfinite", None, id="a gradient of infinity too"),
        pytest.param({}, 1.0, SEARCHING, "loss_scale", None, id="FP16 searches its scale"),
        pytest.param({}, math.inf, SEARCHING, "nonfinite", None, id="but its loss must be finite"),
        pytest.param(
            {"onNonFinite": "Stop"}, math.nan, NOT_APPLIED, "nonfinite", NonFinite, id="stop"
        ),
        pytest.param(
            {"onNonFinite": "RollBack"}, 1.0, NOT_APPLIED, "nonfinite", NonFinite, id="go back"
        ),
        pytest.param(
            {"onNonFinite": "Stop"}, 1.0, SEARCHING, "loss_scale", None, id="no reason to stop"
        ),
        pytest.param({}, 9.0, GOOD, None, None, id="a spike is ignored"),
        pytest.param({"onLossSpike": "Skip"}, 9.0, REFUSED, "loss_spike", None, id="or skipped"),
        pytest.param({"onLossSpike": "Stop"}, 9.0, GOOD, None, LossSpike, id="or the end"),
        pytest.param({"onLossSpike": "RollBack"}, 9.0, GOOD, None, LossSpike, id="or goes back"),
        pytest.param(
            {"onLossSpike": "Ignore"}, 9.0, SEARCHING, "loss_scale", None, id="spike and scale"
        ),
    ],
)
def test_a_step_is_judged(
    recovery: dict[str, Any], loss: float, outcome: StepOutcome | None, skipped: Any, ends: Any
) -> None:
    state = TrainState(recent_losses=[1.0] * 8)
    found = numbers(state, **recovery).judge(41, loss, outcome)
    assert (found.skipped, found.ends) == (skipped, ends)
    assert state.skipped == ({skipped: 1} if skipped else {})
    assert state.loss_spikes == (loss == 9.0)
    bad = skipped in BAD or ends is not None or loss == 9.0
    assert (found.fault is not None) == bad
    if bad:
        assert "at step 41" in str(found.fault)
    if ends:
        assert "spec." in found.hint
        assert found.ends is not None and found.ends("m").failure.exit_code in (72, 79)


def test_what_was_left_out_is_listed_and_the_list_is_bounded() -> None:
    state = TrainState()
    judge = numbers(state, maxSkippedSteps=1000)
    for step in range(1, 101):
        judge.judge(step, math.nan, NOT_APPLIED)
    assert (state.skipped_steps, state.bad_in_a_row) == (100, 100)
    assert state.bad_steps[-1] == {"step": 100, "reason": "nonfinite"}
    assert len(state.bad_steps) == LISTED


def test_so_many_in_a_row_may_be_skipped_and_one_more_ends_it() -> None:
    judge, told = numbers(maxSkippedSteps=3, onLossSpike="Skip"), list[Judgement]()
    for loss, outcome in [
        (math.nan, NOT_APPLIED), (9.0, REFUSED), (math.nan, NOT_APPLIED), (1.0, GOOD),
        (9.0, REFUSED), (math.nan, NOT_APPLIED), (9.0, REFUSED), (9.0, REFUSED),
    ]:  # fmt: skip
        told.append(judge.judge(len(told) + 1, loss, outcome))
    assert [each.ends for each in told] == [None] * 7 + [LossSpike]
    assert "after 3 steps in a row that were left out" in str(told[-1].fault)


@pytest.mark.parametrize(
    ("policy", "remembered"), [("Ignore", True), ("Skip", False), ("Stop", False)]
)
def test_only_losses_that_count_are_what_the_next_is_compared_with(
    policy: str, remembered: bool
) -> None:
    state = TrainState(recent_losses=[1.0] * 8)
    judge = numbers(state, onLossSpike=policy)
    judge.judge(1, 9.0, REFUSED if policy == "Skip" else GOOD)
    assert (9.0 in state.recent_losses) == remembered
    judge.judge(2, math.nan, NOT_APPLIED)
    assert len(state.recent_losses) == 8 and not any(map(math.isnan, state.recent_losses))


def test_the_account_survives_a_checkpoint() -> None:
    import json

    state = TrainState(recent_losses=[1.0, 1 / 3])
    judge = numbers(state, maxSkippedSteps=9)
    judge.judge(1, math.nan, NOT_APPLIED)
    judge.count(2, "passed_over")
    again = TrainState.restored(json.loads(json.dumps(state.content())))
    assert again == state
    assert again.told == {
        "skipped": {"nonfinite": 1, "passedOver": 1},
        "lastBadStep": 1,
        "lossSpikes": None,
        "judgement": None,
    }


def test_steps_are_passed_over_by_number() -> None:
    recovery = Recovery.model_validate(
        {"passedOver": [{"attempt": 0, "firstStep": 3, "lastStep": 4},
                        {"attempt": 1, "firstStep": 9, "lastStep": 9}]}
    )  # fmt: skip
    assert [step for step in range(1, 12) if recovery.passes_over(step)] == [3, 4, 9]
