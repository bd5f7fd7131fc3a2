"""What the rules on over- and underfitting say of stored curves, and what came of it.

Each evaluation of a run is judged with the default policy as if it were the newest; the rest of the
run tells whether that was right. Pure functions over the files that ``curves`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from finetune_trainer.config import Overfitting
from finetune_trainer.judging.course import Course, Point
from finetune_trainer.judging.curve import judge
from finetune_trainer.judging.trend import gain_ahead

DEFAULT = Overfitting()
BETTER = 0.01
"""Share of the best loss by which a later one has to lie below it, to have been worth the steps."""
CUTS = 0.6, 0.8
"""Shares of the steps at which a run is taken to end."""
FOLLOWED = 0.25
"""More steps, as a share of those done, that have to bring what Underfitting promises for fewer."""
RISEN = 0.05
"""A run has overfitted whose last held-out loss lies above its best by more than this share."""
ALARMS = "Overfitting", "Diverged", "WorseThanBase", "NoImprovement"
"""Findings that end a run by policy StopKeepBest."""
BY_THE_BASE = "Diverged", "WorseThanBase"
"""Those that say that training makes the model worse than the untouched one."""


@dataclass(frozen=True)
class Curve:
    """A run as it went on to its end."""

    name: str
    lora: bool
    steps: int
    base: float
    """Held-out loss of the untouched model."""
    points: Sequence[Point]
    base_on_train: float | None = None
    """Its loss on the sample of training rows. None: not stored, so nothing is called Diverged."""

    @property
    def best(self) -> float:
        return min(point.eval_loss for point in self.points)

    @property
    def overfitted(self) -> bool:
        return self.points[-1].eval_loss > (1 + RISEN) * self.best

    @property
    def diverged(self) -> bool:
        """It ends far above the untouched model, on training rows, too."""
        last, on_train = self.points[-1], self.base_on_train
        if last.train_loss is None or on_train is None:
            return False
        pairs = (last.eval_loss, self.base), (last.train_loss, on_train)
        return all(now > (1 + RISEN) * before for now, before in pairs)

    def after(self, count: int, *, end: bool = False) -> Course:
        """As the rules see it after ``count`` evaluations; ``end``: as if no step followed."""
        points = self.points[:count]
        share = 1.0 if end else points[-1].step / self.steps
        return Course(
            points,
            DEFAULT,
            base=self.base,
            base_on_train=self.base_on_train,
            share=share,
            lora=self.lora,
        )


@dataclass(frozen=True)
class Verdict:
    """Something that was said, and how the run went on."""

    finding: str
    step: int
    right: bool


@dataclass(frozen=True)
class Judged:
    """A run with all that was said of it."""

    curve: Curve
    verdicts: Sequence[Verdict]
    alarmed: bool
    """At any evaluation, also the last one, which no future judges."""
    end: str
    """What is found at the end."""

    @property
    def false(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.right]

    @property
    def told(self) -> int | None:
        """The step at which Diverged is first said while the run goes on."""
        return next((v.step for v in self.verdicts if v.finding == "Diverged"), None)

    @property
    def missed(self) -> bool:
        return self.curve.overfitted and not self.alarmed


class Said(NamedTuple):
    """How often a finding was said, and how often wrongly: at evaluations, and in how many runs."""

    verdicts: int
    false: int
    runs: int
    false_runs: int


@dataclass(frozen=True)
class Tally:
    """Figures over runs."""

    runs: int
    false_runs: int
    """With one false verdict or more."""
    verdicts: int
    false_verdicts: int
    overfitted: int
    missed: int
    diverged: int
    untold: int
    """Of those that diverged: not told while there was training to save."""
    findings: dict[str, Said] = field(default_factory=dict)

    def sentence(self) -> str:
        return (
            f"false in {self.false_runs} of {self.runs} runs, {self.false_verdicts} of "
            f"{self.verdicts} verdicts; {self.missed} of {self.overfitted} overfitted runs missed"
        )


def read(folder: Path) -> list[Curve]:
    """All curves of a folder, by name."""
    return [_curve(file) for file in sorted(folder.glob("*.json"))]


def _curve(file: Path) -> Curve:
    content = json.loads(file.read_text())
    return Curve(
        content["name"],
        "lora" in content["method"],
        content["training"]["steps"],
        content["baseLoss"],
        [Point(*point) for point in content["points"]],
        content.get("baseTrainLoss"),
    )


def judged(curve: Curve) -> Judged:
    said = [judge(curve.after(count)) for count in range(1, len(curve.points) + 1)]
    alarmed = any(found is not None and found.finding in ALARMS for found in said)
    end = said[-1].finding if said[-1] else ""
    return Judged(curve, [*_on_the_way(curve), *_at_cuts(curve)], alarmed, end)


def tally(runs: Sequence[Judged]) -> Tally:
    verdicts = [verdict for run in runs for verdict in run.verdicts]
    false = [verdict for verdict in verdicts if not verdict.right]
    return Tally(
        runs=len(runs),
        false_runs=sum(bool(run.false) for run in runs),
        verdicts=len(verdicts),
        false_verdicts=len(false),
        overfitted=sum(run.curve.overfitted for run in runs),
        missed=sum(run.missed for run in runs),
        diverged=sum(run.curve.diverged for run in runs),
        untold=sum(run.curve.diverged and run.told is None for run in runs),
        findings={finding: _said(runs, finding) for finding in (*ALARMS, "Underfitting")},
    )


def _said(runs: Sequence[Judged], finding: str) -> Said:
    by_run = [[v.right for v in run.verdicts if v.finding == finding] for run in runs]
    return Said(
        sum(len(found) for found in by_run),
        sum(found.count(False) for found in by_run),
        sum(bool(found) for found in by_run),
        sum(False in found for found in by_run),
    )


def _on_the_way(curve: Curve) -> Iterator[Verdict]:
    """At each evaluation but the last one. An alarm was false, if the model became better."""
    for count in range(1, len(curve.points)):
        found = judge(curve.after(count))
        if found is None:
            continue
        known = [point.eval_loss for point in curve.points[:count]]
        than = curve.base if found.finding in BY_THE_BASE else min(known)
        better = _falls_below(curve, than, count)
        yield Verdict(found.finding, curve.points[count - 1].step, right=not better)


def _falls_below(curve: Curve, than: float, count: int) -> bool:
    """Whether an evaluation after the first ``count`` is better than this loss."""
    later = min(point.eval_loss for point in curve.points[count:])
    return than - later > max(DEFAULT.min_delta, BETTER * than)


def _at_cuts(curve: Curve) -> Iterator[Verdict]:
    """Underfitting, where the run is cut: was it false that more steps would bring so much?"""
    for cut in CUTS:
        steps = cut * curve.steps
        count = sum(point.step <= steps for point in curve.points)
        course = curve.after(count, end=True)
        found, gain = judge(course), gain_ahead(course)
        if found is None or found.finding != "Underfitting" or gain is None:
            continue
        last, rest = course.last, curve.points[count:]
        until = (1 + FOLLOWED) * last.step
        lowest = min(point.eval_loss for point in rest if point.step <= until)
        yield Verdict("Underfitting", last.step, right=last.eval_loss - lowest >= gain)
