"""Where a curve is going: the slope of its end, and who learns from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression

from finetune_trainer.judging.course import Course, Point

AHEAD = 0.1
"""More steps, as a share of those done."""
SHARED = 0.5
"""Share of what is learnt on training rows; what held-out ones have less of is learnt by heart."""
LAST_PART = 1 / 3
"""Of the steps, by which the slope at the end is told."""
LEAST_POINTS = 3
"""Fewer of them say nothing about a slope."""


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
    slopes: list[float] = [slope * flattening**parts]
    newest = late[len(late) // 2 :]
    if len(newest) >= LEAST_POINTS:
        slopes.append(_slope(_held(newest)))
    return -max(slopes) * AHEAD * end


def at_the_end(course: Course) -> float | None:
    """The held-out loss after the last step, if it goes on to fall as over the last third of the
    steps so far. None: it does not fall, or there are too few points to tell."""
    late = course.points[-max(LEAST_POINTS, len(_late(course))) :]
    if len(late) < LEAST_POINTS or not all(math.isfinite(point.eval_loss) for point in late):
        return None
    slope = _slope(_held(late))
    left = course.last.step / course.share - fmean(point.step for point in late)
    return fmean(point.eval_loss for point in late) + slope * left if slope < 0 else None


def mostly_by_heart(course: Course) -> bool:
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
