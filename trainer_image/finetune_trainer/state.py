"""What the loop carries from step to step, and through a checkpoint, besides the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic.alias_generators import to_camel


@dataclass
class TrainState:
    """All of it is the same on every rank and fits JSON.

    There is no random state: dropout is seeded from (seed, step, rank) at each step, and the data
    position follows from ``step``.
    """

    step: int = 0
    """Optimizer steps done, skipped ones included; the next step has this number."""
    tokens: int = 0
    """Input tokens without padding, over all ranks."""
    supervised_tokens: int = 0
    samples: int = 0
    """Packed rows consumed: the data cursor, whatever the world size."""
    skipped_steps: int = 0
    """Steps that changed no weight."""
    skipped: dict[str, int] = field(default_factory=dict)
    """The same by reason; see ``bad_numbers.Reason``."""
    bad_steps: list[dict[str, Any]] = field(default_factory=list)
    """Steps left out for their numbers, with the reason: the newest, the newest last."""
    bad_in_a_row: int = 0
    """So many of them just now."""
    loss_spikes: int = 0
    """Spikes seen, also those of steps that were applied."""
    recent_losses: list[float] = field(default_factory=list)
    """By which the next loss is judged; part of the state so that a resumed run judges alike."""
    evaluated_step: int | None = None
    answered_step: int | None = None
    """When held-out prompts were last answered."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The latest numbers, as in ``/progress``."""
    best: dict[str, Any] | None = None
    """Step and evalLoss of the best evaluation after a step; the untouched model is none."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Step, evalLoss and trainLoss of the newest evaluations, the newest last."""
    judgement: dict[str, Any] | None = None
    """What was read from it; see ``judging.curve``."""
    stopped: bool = False
    """Training is over before its last step, because of that."""

    def content(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def told(self) -> dict[str, Any]:
        """What became of steps with bad numbers, as /progress and the outcome tell it."""
        by_reason = {to_camel(reason): count for reason, count in self.skipped.items()}
        return {
            "skipped": by_reason or None,
            "lastBadStep": self.bad_steps[-1]["step"] if self.bad_steps else None,
            "lossSpikes": self.loss_spikes or None,
            "judgement": self.judgement,
        }

    @classmethod
    def restored(cls, content: dict[str, Any]) -> TrainState:
        return cls(**content)
