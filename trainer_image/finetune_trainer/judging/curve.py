"""Does the model learn what it should? Over- and underfitting, read from the evaluations so far.

Pure functions: a curve and a policy go in, a judgement comes out. The losses on held-out and on
training rows are on one scale: the same weights, weighted by tokens, without dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, linear_regression
from typing import Any

from finetune_trainer.config import Overfitting

RISE = 0.03
"""A rise by less than this share of the best is noise: the best of many losses is a lucky one."""
STILL_FALLING = 0.01
"""Underfitting: a bit more training would lower the held-out loss by more than this share of it."""
AHEAD = 0.1
"""That bit, as a share of the steps done."""
SHARED = 0.5
"""Share of what is learnt on training rows; what held-out ones have less of is learnt by heart."""
LAST_PART = 1 / 3
"""Of the steps, by which the slope at the end is told."""
WANDERING = 2
"""So many times the patience, where the loss on training rows has not fallen either."""
LEAST_POINTS = 3
"""Fewer of them say nothing about a slope."""
ENOUGH = 0.5
"""Share of the steps after which a model should be better than the untouched one."""


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

    @property
    def lowest(self) -> int:
        """Step of the lowest held-out loss, by however little."""
        finite = [point for point in self.points if math.isfinite(point.eval_loss)]
        return min(finite, key=lambda point: point.eval_loss, default=self.last).step

    @property
    def since_best(self) -> Sequence[Point]:
        return self.points[self.best + 1 :]

    @property
    def out_of_patience(self) -> bool:
        return len(self.since_best) >= self.policy.patience


@dataclass(frozen=True)
class Judgement:
    finding: str
    """Overfitting, NoImprovement, WorseThanBase, Underfitting or WellFitted."""
    message: str
    """What was seen, with numbers, and what to try."""
    stop: bool = False

    def content(self) -> dict[str, Any]:
        return {"finding": self.finding, "message": self.message}


def judge(course: Course) -> Judgement | None:
    """The first rule's opinion; None: there is nothing to say yet."""
    if course.policy.action == "Ignore":
        return None
    found = next((said for rule in RULES if (said := rule(course))), None)
    if found is None or not found.stop:
        return found
    if course.policy.action == "StopKeepBest":
        ended = "stopped, " if course.share < 1 else ""
        message = f"{found.message}; {ended}step {course.lowest} is kept"
        return Judgement(found.finding, message, stop=True)
    return Judgement(found.finding, found.message)


def gap_too_wide(course: Course) -> Judgement | None:
    """Held-out and training loss have parted by more than maxGap."""
    limit, gap = course.policy.max_gap, course.last.gap
    if limit is None or gap is None or not gap > limit:
        return None
    last = course.last
    return Judgement(
        "Overfitting",
        f"the held-out loss is {last.eval_loss:.4g} and that on training rows "
        f"{last.train_loss:.4g}: a gap above maxGap {limit:g}; {_against_overfitting(course)}",
        stop=True,
    )


def learnt_by_heart(course: Course) -> Judgement | None:
    """The held-out loss has risen while that on training rows went on falling."""
    best, last = course.points[course.best], course.last
    if not course.out_of_patience or best.train_loss is None or last.train_loss is None:
        return None
    rise = fmean(point.eval_loss for point in course.since_best) - best.eval_loss
    rose = rise > max(course.policy.min_delta, RISE * best.eval_loss)
    if not (rose and last.train_loss < best.train_loss):
        return None
    return Judgement(
        "Overfitting",
        f"since step {best.step} the held-out loss rose from {best.eval_loss:.4g} to "
        f"{last.eval_loss:.4g}, while that on training rows fell from {best.train_loss:.4g} to "
        f"{last.train_loss:.4g}; {_against_overfitting(course)}",
        stop=True,
    )


def no_improvement(course: Course) -> Judgement | None:
    """Nothing has become better for a while, and it is not the training rows either."""
    count, patience = len(course.since_best), course.policy.patience
    if count < (WANDERING * patience if _wanders(course) else patience):
        return None
    best = course.points[course.best]
    return Judgement(
        "NoImprovement",
        f"the held-out loss has not improved on {best.eval_loss:.4g} of step {best.step} for "
        f"{count} evaluations; fewer steps are enough, or try "
        "another training.learningRate, or more varied data",
        stop=True,
    )


def _wanders(course: Course) -> bool:
    """Whether the loss on training rows has not fallen either: noise of the steps, which passes."""
    losses = [point.train_loss for point in course.points[course.best :]]
    known = [loss for loss in losses if loss is not None]
    return 1 < len(known) == len(losses) and not fmean(known[1:]) < known[0]


def worse_than_base(course: Course) -> Judgement | None:
    """Training has not made the model better than it was."""
    if course.share < ENOUGH or course.base is None or not math.isfinite(course.base):
        return None
    best = course.points[course.best].eval_loss
    if best < course.base - course.policy.min_delta:
        return None
    return Judgement(
        "WorseThanBase",
        f"the best held-out loss {best:.4g} is not below {course.base:.4g} of the untouched model; "
        "try a lower training.learningRate if losses rose, a higher one if they stayed, and look "
        "at the data report: do training and held-out rows belong to one task?",
    )


def still_falling(course: Course) -> Judgement | None:
    """At its end, training was still making the model better."""
    gain = gain_ahead(course)
    last = course.last
    if course.share < 1 or gain is None or gain <= STILL_FALLING * last.eval_loss:
        return None
    if _mostly_by_heart(course):
        return None
    return Judgement(
        "Underfitting",
        f"the held-out loss {last.eval_loss:.4g} was still falling at the end: a tenth more steps "
        f"would lower it by about {gain:.2g}; try more training.epochs, a higher "
        f"training.learningRate, or {'a higher lora.rank' if course.lora else 'a larger model'}",
    )


def gain_ahead(course: Course) -> float | None:
    """By how much ``AHEAD`` more steps would lower the held-out loss, in nats.

    The slope goes on to flatten as it has from the part before the last one to the last, and is no
    steeper than in the newest half of that. None: the loss is past its best, or there are too few
    points to tell.
    """
    if course.best != len(course.points) - 1:
        return None
    end = course.last.step
    late = _late(course)
    before = _between(course, (1 - 2 * LAST_PART) * end, (1 - LAST_PART) * end)
    if len(late) < LEAST_POINTS or len(before) < 2:
        return None
    if not all(math.isfinite(point.eval_loss) for point in (*before, *late)):
        return None
    slope, earlier = _slope(_held(late)), _slope(_held(before))
    if not slope < 0:
        return 0.0
    flattening = min(1.0, slope / earlier) if earlier < 0 else 1.0
    middle, ahead = fmean(p.step for p in late), (1 + AHEAD / 2) * end
    parts = (ahead - middle) / (middle - fmean(p.step for p in before))
    slopes = [slope * flattening**parts]
    newest = late[len(late) // 2 :]
    if len(newest) >= LEAST_POINTS:
        slopes.append(_slope(_held(newest)))
    return -max(slopes) * AHEAD * end


def _mostly_by_heart(course: Course) -> bool:
    """Whether less than ``SHARED`` of what is learnt on training rows shows on held-out ones."""
    late = _late(course)
    held = _slope(_held(late))
    on_train = [
        (point.step, point.train_loss)
        for point in late
        if point.train_loss is not None and math.isfinite(point.train_loss)
    ]
    return len(on_train) == len(late) and held > SHARED * _slope(on_train)


def _late(course: Course) -> list[Point]:
    return _between(course, (1 - LAST_PART) * course.last.step, math.inf)


def _between(course: Course, first: float, end: float) -> list[Point]:
    return [point for point in course.points if first <= point.step < end]


def _held(points: Sequence[Point]) -> list[tuple[int, float]]:
    return [(point.step, point.eval_loss) for point in points]


def _slope(losses: Sequence[tuple[int, float]]) -> float:
    """In nats a step. All losses are finite."""
    return float(linear_regression(*zip(*losses, strict=True)).slope)


def well_fitted(course: Course) -> Judgement | None:
    """Nothing is wrong; said at the end."""
    if course.share < 1:
        return None
    best = course.points[course.best]
    before = f", {course.base:.4g} before training" if course.base is not None else ""
    return Judgement(
        "WellFitted", f"the held-out loss is {best.eval_loss:.4g} at step {best.step}{before}"
    )


RULES: tuple[Callable[[Course], Judgement | None], ...] = (
    gap_too_wide,
    learnt_by_heart,
    no_improvement,
    worse_than_base,
    still_falling,
    well_fitted,
)


def _against_overfitting(course: Course) -> str:
    knobs = "more lora.dropout, a lower lora.rank" if course.lora else "more dropout, method.lora"
    return f"try fewer training.epochs, {knobs}, or more data"
