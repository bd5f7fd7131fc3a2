"""What the loop carries from step to step, and through a checkpoint, besides the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
    nonfinite_in_a_row: int = 0
    evaluated_step: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    """The latest numbers, as in ``/progress``."""
    best: dict[str, Any] | None = None

    def content(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> TrainState:
        return cls(**content)
