"""What the rules on over- and underfitting say of stored curves, and what came of it.

Each evaluation of a run is judged with the default policy as if it were the newest; the rest of the
run tells whether that was right. Pure functions over the files that ``curves`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
ALARMS = "Overfitting", "WorseThanBase", "NoImprovement"
"""Findings that end a run by policy StopKeepBest."""


@dataclass(frozen=True)
class Curve:
    """A run as it went on to its end."""

    name: str
    lora: bool
    steps: int
    base: float
    points: Sequence[Point]

    @property
    def best(self) -> float:
        return min(point.eval_loss for point in self.points)

    @property
    def overfitted(self) -> bool:
        return self.points[-1].eval_loss > (1 + RISEN) * self.best

    def after(self, count: int, *, end: bool = False) -> Course:
        """As the rules see it after ``count`` evaluations; ``end``: as if no step followed."""
        points = self.points[:count]
        share = 1.0 if end else points[-1].step / self.steps
        return Course(points, DEFAULT, base=self.base, share=share, lora=self.lora)


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

    @property
    def false(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.right]

    @property
    def missed(self) -> bool:
        return self.curve.overfitted and not self.alarmed


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
    findings: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How often each was said, and how often wrongly."""

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
    )


def judged(curve: Curve) -> Judged:
    said = [judge(curve.after(count)) for count in range(1, len(curve.points) + 1)]
    alarmed = any(found is not None and found.finding in ALARMS for found in said)
    return Judged(curve, [*_on_the_way(curve), *_at_cuts(curve)], alarmed)


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
        findings={
            finding: (
                sum(verdict.finding == finding for verdict in verdicts),
                sum(verdict.finding == finding for verdict in false),
            )
            for finding in (*ALARMS, "Underfitting")
        },
    )


def _on_the_way(curve: Curve) -> Iterator[Verdict]:
    """At each evaluation but the last one. An alarm was false, if the model became better."""
    for count in range(1, len(curve.points)):
        found = judge(curve.after(count))
        if found is None:
            continue
        known = [point.eval_loss for point in curve.points[:count]]
        than = curve.base if found.finding == "WorseThanBase" else min(known)
        later = min(point.eval_loss for point in curve.points[count:])
        better = than - later > max(DEFAULT.min_delta, BETTER * than)
        yield Verdict(found.finding, curve.points[count - 1].step, right=not better)


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
