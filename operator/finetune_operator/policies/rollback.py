"""Training ended by its own numbers: whether going back and passing rows over could help.

The recipe is that of PaLM (Chowdhery et al., 2022, section 5.1): start again from a checkpoint some
way before the spike and leave out the batches that were seen before and during it. The same batches
did no harm to other weights there, so it is the pair of batch and weights that is avoided.
"""

from __future__ import annotations

from ..api.types import Failure, PassedOver, StageName
from .facts import Facts

NON_FINITE = "NonFinite"
LOSS_SPIKE = "LossSpike"
FIELDS = {
    NON_FINITE: "spec.recovery.onNonFinite",
    LOSS_SPIKE: "spec.recovery.onLossSpike",
}
"""The field that says what follows, by class."""


def policy(facts: Facts, failure: Failure) -> str | None:
    """What is to follow from bad numbers: Skip, RollBack, Stop or Ignore; None: from others."""
    if failure.stage is not StageName.TRAIN:
        return None
    recovery = facts.spec.recovery
    match failure.failure_class:
        case "NonFinite":
            return recovery.on_non_finite.value
        case "LossSpike":
            return recovery.on_loss_spike.value
    return None


def rolls_back(facts: Facts, failure: Failure) -> bool:
    """Whether the policy is to go back, however often that was done already."""
    return policy(facts, failure) == "RollBack"


def rolled_back(facts: Facts) -> tuple[PassedOver, ...]:
    """What the job passes over because of earlier attempts."""
    return facts.known_plan.resolved.passed_over or ()


def passed_over(facts: Facts, failure: Failure) -> PassedOver | None:
    """The steps that the next attempt passes over; None: it does not go back.

    A step that was to be passed over and failed again is no reason to go back once more.
    """
    recovery, before = facts.spec.recovery, rolled_back(facts)
    if not rolls_back(facts, failure) or failure.step is None or failure.attempt is None:
        return None
    bad = failure.step + 1
    known = any((each.first_step or 0) <= bad <= (each.last_step or 0) for each in before)
    if known or len(before) >= recovery.max_roll_backs:
        return None
    return PassedOver(
        attempt=failure.attempt,
        failure_class=failure.failure_class,
        first_step=max(1, bad - recovery.roll_back_steps + 1),
        last_step=bad,
    )


def tell_roll_back(facts: Facts, over: PassedOver) -> str:
    """What the next attempt does, in words."""
    steps = (
        f"step {over.last_step}"
        if over.first_step == over.last_step
        else f"steps {over.first_step} to {over.last_step}"
    )
    number, limit = len(rolled_back(facts)) + 1, facts.spec.recovery.max_roll_backs
    return (
        f"from the newest checkpoint before {steps}, passing over their rows: "
        f"roll-back {number} of {limit}, spec.recovery.maxRollBacks"
    )
