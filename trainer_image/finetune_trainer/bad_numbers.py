"""What follows from a step whose numbers are bad: it is left out, or training ends here.

The verdict is the same on every rank, because it looks only at what all of them know: the loss of
the whole window, what became of the step, and the state. FP16 gradients that overflow while the
loss scale is searched are no bad numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.config import Recovery
from finetune_trainer.engine import StepOutcome
from finetune_trainer.errors import LossSpike, NonFinite
from finetune_trainer.spikes import Spike, find_spike
from finetune_trainer.state import TrainState

Reason = Literal["no_tokens", "loss_scale", "nonfinite", "loss_spike", "passed_over"]
"""Why a step changed no weight; label of ``finetune_train_steps_skipped_total``."""
BAD: tuple[Reason, ...] = ("nonfinite", "loss_spike")
LISTED = 32
"""Bad steps that the state remembers, the newest last."""


@dataclass(frozen=True)
class Judgement:
    """Of one step."""

    skipped: Reason | None = None
    """Why it changed no weight; None: it did."""
    fault: str | None = None
    """What was wrong with its numbers; None: nothing."""
    ends: type[NonFinite] | type[LossSpike] | None = None
    """Training ends with this error."""
    hint: str = ""


class BadNumbers:
    """Judges the steps of a job by its policy, and keeps the account of them in its state."""

    def __init__(self, recovery: Recovery, state: TrainState) -> None:
        self._recovery = recovery
        self._state = state

    @property
    def refuses_spikes(self) -> bool:
        """Whether a step must be judged by its loss before it is applied."""
        return self._recovery.on_loss_spike == "Skip"

    def spike(self, loss: float) -> Spike | None:
        """Whether the loss of the present step is a spike."""
        rule = self._recovery.loss_spike
        return find_spike(
            loss, self._state.recent_losses, window=rule.window_steps, factor=rule.factor
        )

    def judge(self, step: int, loss: float, outcome: StepOutcome | None) -> Judgement:
        """Judge and account for a step, numbered from 1. ``outcome`` None: it had no target."""
        judgement = self._judged(step, loss, outcome)
        if judgement.skipped:
            self.count(step, judgement.skipped)
        if judgement.skipped not in BAD:
            self._state.bad_in_a_row = 0
        return judgement

    def count(self, step: int, reason: Reason) -> None:
        """A step that changed no weight."""
        state = self._state
        state.skipped_steps += 1
        state.skipped = {**state.skipped, reason: state.skipped.get(reason, 0) + 1}
        if reason in BAD:
            state.bad_in_a_row += 1
            listed = [*state.bad_steps, {"step": step, "reason": reason}]
            state.bad_steps = listed[-LISTED:]

    def _judged(self, step: int, loss: float, outcome: StepOutcome | None) -> Judgement:
        if outcome is None:
            return Judgement("no_tokens")
        finite = math.isfinite(loss)
        if not finite or not (outcome.applied or outcome.searching_scale or outcome.refused):
            return self._not_finite(step, loss, outcome)
        spike = self.spike(loss)
        if spike is None or self._recovery.on_loss_spike == "Ignore":
            self._remember(loss)
        if spike is not None:
            self._state.loss_spikes += 1
            return self._jumped(step, spike, outcome)
        return Judgement(None if outcome.applied else "loss_scale")

    def _not_finite(self, step: int, loss: float, outcome: StepOutcome) -> Judgement:
        fault = (
            f"loss or gradients are not finite at step {step}: loss {loss:.4g}, "
            f"gradient norm {outcome.grad_norm:.4g}"
        )
        hint = "lower spec.training.learningRate, or look at these rows"
        match self._recovery.on_non_finite:
            case "Skip" if self._may_skip:
                return Judgement("nonfinite", fault)
            case "Skip":
                hint += "; spec.recovery.onNonFinite: RollBack goes back and passes them over"
                fault += self._too_many
            case "Stop":
                hint += "; spec.recovery.onNonFinite: Skip leaves such steps out"
        return Judgement("nonfinite", fault, NonFinite, hint)

    def _jumped(self, step: int, spike: Spike, outcome: StepOutcome) -> Judgement:
        fault = f"loss spike at step {step}: {spike}"
        hint = (
            "lower spec.training.learningRate, look at these rows, or raise "
            "spec.recovery.lossSpike.factor if such losses belong to the data"
        )
        skipped = self._why_not_applied(outcome)
        match self._recovery.on_loss_spike:
            case "Ignore":
                return Judgement(skipped, fault)
            case "Skip" if self._may_skip:
                return Judgement("loss_spike", fault)
            case "Skip":
                return Judgement("loss_spike", fault + self._too_many, LossSpike, hint)
        return Judgement(skipped, fault, LossSpike, hint)

    @staticmethod
    def _why_not_applied(outcome: StepOutcome) -> Reason | None:
        return None if outcome.applied else "loss_scale"

    @property
    def _may_skip(self) -> bool:
        return self._state.bad_in_a_row < self._recovery.max_skipped_steps

    @property
    def _too_many(self) -> str:
        limit = self._recovery.max_skipped_steps
        return f", after {limit} steps in a row that were left out (spec.recovery.maxSkippedSteps)"

    def _remember(self, loss: float) -> None:
        window = self._recovery.loss_spike.window_steps
        self._state.recent_losses = [*self._state.recent_losses, loss][-window:]
