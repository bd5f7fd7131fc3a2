"""Does the model learn what it should? Over- and underfitting, read from the evaluations so far.

Pure functions: a curve and a policy go in, a judgement comes out. The losses on held-out and on
training rows are on one scale: the same weights, weighted by tokens, without dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finetune_trainer.judging.course import Course
from finetune_trainer.judging.trend import at_the_end, gain_ahead, mostly_by_heart

RISE = 0.03
"""A rise by less than this share of the best is noise: the best of many losses is a lucky one."""
STILL_FALLING = 0.01
"""Underfitting: a bit more training would lower the held-out loss by more than this share of it."""
WANDERING = 2
"""So many times the patience, where the loss on training rows has not fallen either."""
ENOUGH = 0.5
"""Share of the steps after which a model should be better than the untouched one."""


@dataclass(frozen=True)
class Judgement:
    finding: str
    """Overfitting, Diverged, WorseThanBase, NoImprovement, Underfitting or WellFitted."""
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
        message = f"{found.message}; {ended}step {course.lowest.step} is kept"
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
    fell = last.train_loss < best.train_loss and not _wanders(course)
    if not (rose and fell):
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
        f"{count} evaluations and is {course.last.eval_loss:.4g} now; fewer steps are enough, or "
        "try another training.learningRate, or more varied data",
        stop=True,
    )


def _wanders(course: Course) -> bool:
    """Whether the loss on training rows has not fallen either: noise of the steps, which passes."""
    losses = [point.train_loss for point in course.points[course.best :]]
    known = [loss for loss in losses if loss is not None]
    return 1 < len(known) == len(losses) and not fmean(known[1:]) < known[0]


def worse_than_base(course: Course) -> Judgement | None:
    """Training has not made the model better than it was."""
    stuck = no_improvement(course) is not None
    if course.base is None or not math.isfinite(course.base):
        return None
    if not stuck and (course.share < ENOUGH or _comes_below(course, course.base)):
        return None
    loss = (course.result if course.share >= 1 else course.points[course.best]).eval_loss
    if loss < course.base - course.policy.min_delta:
        return None
    whose = "" if course.share >= 1 else "best "
    return Judgement(
        "WorseThanBase",
        f"the {whose}held-out loss {loss:.4g} is not below {course.base:.4g} of the untouched "
        "model; try a lower training.learningRate if losses rose, a higher one if they stayed, and "
        "look at the data report: do training and held-out rows belong to one task?"
        f"{_better_before(course)}",
        stop=stuck or course.share >= 1,
    )


def diverged(course: Course) -> Judgement | None:
    """The steps lead away: losses lie above those of the untouched model, on training rows too.

    Not said at once: a rate that is high in the beginning makes losses rise and fall again. Losses
    that leap about fall steeply now and then: those have had twice the patience.
    """
    last, base, base_on_train = course.last, course.base, course.base_on_train
    if last.train_loss is None or base is None or base_on_train is None:
        return None
    stuck = no_improvement(course) is not None or course.share >= 1
    late = stuck or course.out_of_patience
    many = course.share >= ENOUGH or len(course.points) >= WANDERING * course.policy.patience
    if not stuck and (not (late or many) or _comes_below(course, (1 + RISE) * base)):
        return None
    pairs = (last.eval_loss, base), (last.train_loss, base_on_train)
    if not all(now - before > max(course.policy.min_delta, RISE * before) for now, before in pairs):
        return None
    return Judgement(
        "Diverged",
        f"training made the model worse: the held-out loss rose from {base:.4g} of the untouched "
        f"model to {last.eval_loss:.4g}, and that on training rows from {base_on_train:.4g} to "
        f"{last.train_loss:.4g}; try a tenth of training.learningRate{_better_before(course)}",
        stop=late,
    )


def _comes_below(course: Course, bound: float) -> bool:
    """Whether the held-out loss ends below this, if it goes on to fall as of late: by the last
    evaluation, or by the one before."""
    views = course, course.earlier(1)
    ahead = [at_the_end(view) for view in views if view is not None]
    return course.share < 1 and any(loss is not None and loss < bound for loss in ahead)


def _better_before(course: Course) -> str:
    """Where the last weights are the result, and earlier ones were better than the base."""
    if course.policy.action == "StopKeepBest" or course.base is None:
        return ""
    best = course.lowest
    if not best.eval_loss < course.base:
        return ""
    return (
        f"; step {best.step} had {best.eval_loss:.4g}: evaluation.overfitting.action StopKeepBest "
        "makes such weights the result"
    )


def still_falling(course: Course) -> Judgement | None:
    """At its end, training was still making the model better."""
    gain = gain_ahead(course)
    last = course.last
    if course.share < 1 or gain is None or gain <= STILL_FALLING * last.eval_loss:
        return None
    if mostly_by_heart(course):
        return None
    return Judgement(
        "Underfitting",
        f"the held-out loss {last.eval_loss:.4g} was still falling at the end: a tenth more steps "
        f"would lower it by about {gain:.2g}; try more training.epochs, a higher "
        f"training.learningRate, or {'a higher lora.rank' if course.lora else 'a larger model'}",
    )


def well_fitted(course: Course) -> Judgement | None:
    """Nothing is wrong; said at the end."""
    if course.share < 1:
        return None
    best = course.result
    before = f", {course.base:.4g} before training" if course.base is not None else ""
    return Judgement(
        "WellFitted", f"the held-out loss is {best.eval_loss:.4g} at step {best.step}{before}"
    )


RULES: tuple[Callable[[Course], Judgement | None], ...] = (
    gap_too_wide,
    learnt_by_heart,
    diverged,
    worse_than_base,
    no_improvement,
    still_falling,
    well_fitted,
)


def _against_overfitting(course: Course) -> str:
    knobs = "more lora.dropout, a lower lora.rank" if course.lora else "more dropout, method.lora"
    return f"try fewer training.epochs, {knobs}, or more data"
