"""The evaluations of a run so far, and what is plain from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from finetune_trainer.config import Overfitting

REMEMBERED = 256
"""Evaluations that the state carries along, besides the best."""


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    eval_loss: float
    train_loss: float | None = None
    """On a fixed sample of the training rows."""

    @property
    def gap(self) -> float | None:
        return None if self.train_loss is None else self.eval_loss - self.train_loss


@dataclass(frozen=True)
class Course:
    """All that a rule may look at. ``points`` is not empty."""

    points: Sequence[Point]
    policy: Overfitting
    base: float | None
    """Held-out loss of the untouched model."""
    share: float
    """Of the planned steps that are done."""
    lora: bool
    base_on_train: float | None = None
    """Loss of the untouched model on the sample of training rows."""

    @property
    def last(self) -> Point:
        return self.points[-1]

    @cached_property
    def best(self) -> int:
        """Number of the last point that was better than all before it by more than minDelta."""
        best = 0
        for number, point in enumerate(self.points):
            gain = self.points[best].eval_loss - point.eval_loss
            # Not finite is worse than anything.
            first = not math.isfinite(self.points[best].eval_loss)
            if math.isfinite(point.eval_loss) and (first or gain > self.policy.min_delta):
                best = number
        return best

    def earlier(self, evaluations: int) -> Course | None:
        """As it was so many evaluations ago; None: it had not begun."""
        points = self.points[: len(self.points) - evaluations]
        if not points:
            return None
        return replace(self, points=points, share=self.share * points[-1].step / self.last.step)

    @property
    def lowest(self) -> Point:
        """That of the lowest held-out loss, by however little."""
        finite = [point for point in self.points if math.isfinite(point.eval_loss)]
        return min(finite, key=lambda point: point.eval_loss, default=self.last)

    @property
    def result(self) -> Point:
        """That of the weights which are the result, if this is the end."""
        return self.lowest if self.policy.action == "StopKeepBest" else self.last

    @property
    def since_best(self) -> Sequence[Point]:
        return self.points[self.best + 1 :]

    @property
    def out_of_patience(self) -> bool:
        return len(self.since_best) >= self.policy.patience


def remembered(
    curve: Sequence[dict[str, Any]], best: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The last evaluations, and the one with the lowest loss, however old: without it the lowest of
    those that are left would pass for the best."""
    older, last = curve[:-REMEMBERED], curve[-REMEMBERED:]
    step = best["step"] if best else None
    return [*(point for point in older if point["step"] == step), *last]
