"""What counts as a false verdict, on curves that are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from benchmarks.verdicts import Curve, judged, tally
from finetune_trainer.judging.course import Point

BASE = 4.0


def curve(held: Callable[[float], float], train: Callable[[float], float] | None = None) -> Curve:
    """Thirty evaluations; time goes from 0 to 1."""
    points = [Point(10 * n, held(n / 30), (train or held)(n / 30)) for n in range(1, 31)]
    return Curve("drawn", lora=True, steps=300, base=BASE, points=points, base_on_train=BASE)


def said(drawn: Curve) -> set[tuple[str, bool]]:
    return {(verdict.finding, verdict.right) for verdict in judged(drawn).verdicts}


def rising(t: float) -> float:
    return 4 - 4 * t if t < 0.5 else 2 + 2 * (t - 0.5)


def hill(height: float) -> Callable[[float], float]:
    """Falls, rests on a hill, and falls on."""
    return lambda t: 4 - 4 * t + (height if 0.3 < t < 0.6 else 0)


def test_an_alarm_is_right_where_nothing_better_follows() -> None:
    run = judged(curve(rising, lambda t: 4 - 3 * t))
    assert ("Overfitting", True) in said(run.curve) and not run.false
    assert run.curve.overfitted and run.alarmed and not run.missed


def test_an_alarm_is_false_where_the_model_becomes_better_after_it() -> None:
    run = judged(curve(hill(2.0)))
    assert ("NoImprovement", False) in said(run.curve)
    assert tally([run]).false_runs == 1 and tally([run]).false_verdicts > 0
    assert not run.curve.overfitted


@pytest.mark.parametrize(("gain", "right"), [(0.005, True), (0.02, False)])
def test_a_gain_of_one_percent_makes_it_false(gain: float, right: bool) -> None:
    flat = curve(lambda t: 2.0 + (t < 0.1) - (2 * gain if t > 0.9 else 0))
    assert said(flat) == {("NoImprovement", right)}


def level(t: float) -> float:
    return BASE + 0.1


def late(t: float) -> float:
    return BASE + 1 if t < 0.8 else 3.0


def test_what_is_said_by_the_base_is_false_where_the_loss_gets_below_it() -> None:
    assert ("WorseThanBase", False) in said(curve(late, lambda t: 3.0))
    assert ("WorseThanBase", True) in said(curve(level, lambda t: 3.0))
    assert ("Diverged", False) in said(curve(late))
    assert said(curve(lambda t: BASE + 1)) == {("Diverged", True)}


def test_a_run_that_ends_above_the_untouched_model_has_diverged() -> None:
    """On training rows, too; it is told of before the end, or counts as not told."""
    away = judged(curve(lambda t: BASE + 4 * t))
    assert away.curve.diverged and away.told == 40 and away.end == "Diverged"
    assert not curve(lambda t: BASE + 4 * t, lambda t: 3.0).diverged
    assert not curve(level).diverged
    sudden = judged(curve(lambda t: 3.0 if t < 1 else 6.0))
    assert sudden.curve.diverged and sudden.told is None
    counted = tally([away, sudden])
    assert (counted.diverged, counted.untold) == (2, 1)
    assert counted.findings["Diverged"] == (26, 0, 1, 0)


def test_underfitting_has_to_bring_what_it_promises() -> None:
    assert said(curve(lambda t: 4 - 2 * t)) == {("Underfitting", True)}
    stands = curve(lambda t: max(4 - 2 * t, 2.8))
    assert said(stands) >= {("Underfitting", False)}


def test_an_overfitted_run_without_an_alarm_is_missed() -> None:
    """It rises at the end, too late for patience."""
    run = judged(curve(lambda t: 4 - 2 * t if t < 0.95 else 3.0))
    assert run.missed and tally([run]).missed == 1


def test_a_good_run_hears_nothing() -> None:
    assert said(curve(lambda t: 1 + 3 * math.exp(-12 * t))) == set()
