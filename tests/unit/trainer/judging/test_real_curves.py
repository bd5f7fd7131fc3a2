"""The rules on loss curves of real runs, judged by what the runs did afterwards.

``make bench ARGS=curves`` makes the curves; ``benchmarks.verdicts`` has what counts as false.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from benchmarks.curves import CURVES, Run
from benchmarks.curves_section import AGAIN, ALL, AWAY, CHOICE, HIGH, JUDGED, TENTH
from benchmarks.verdicts import ALARMS, BY_THE_BASE, judged, read, tally

FALSE = 0.05
MISSED = 0.05
TOLD_AFTER, MOST_TOLD_AFTER = 0.6, 0.3
"""Shares of the steps after which runs that diverge have to be told so: each, and the median."""
RUNS = {run.name: judged(run) for run in read(CURVES)}


def test_there_are_curves_of_all_runs_and_of_all_kinds() -> None:
    assert {run.name for run in ALL} == set(RUNS) and len(RUNS) == len(ALL) >= 24
    curves = [run.curve for run in RUNS.values()]
    assert all(len(curve.points) >= 20 for curve in curves)
    assert sum(curve.overfitted for curve in curves) >= 4
    assert sum(curve.points[-1].eval_loss == curve.best for curve in curves) >= 6
    assert sum(curve.diverged for curve in curves) >= 8
    come_back = [
        curve
        for curve in curves
        if curve.points[0].eval_loss > 1.03 * curve.base and curve.points[-1].eval_loss < curve.base
    ]
    assert len(come_back) >= 2


@pytest.mark.parametrize(
    "runs", [(*CHOICE, *JUDGED), ALL], ids=["what rules were chosen on", "all"]
)
def test_few_alarms_are_false(runs: tuple[Run, ...]) -> None:
    found = tally([RUNS[run.name] for run in runs])
    assert found.verdicts >= found.runs
    assert found.false_verdicts <= FALSE * found.verdicts, found


def test_few_runs_hear_a_false_alarm() -> None:
    found = tally([RUNS[run.name] for run in (*CHOICE, *JUDGED)])
    assert found.false_runs <= FALSE * found.runs, found


@pytest.mark.parametrize("finding", [*ALARMS, "Underfitting"])
def test_each_rule_is_wrong_in_few_runs(finding: str) -> None:
    """Also those that nobody looked at, and those with rates that are too high, or nearly."""
    found = tally([*RUNS.values()])
    said = found.findings[finding]
    assert said.runs >= 3 and said.false_runs <= FALSE * found.runs, said


def test_no_run_that_comes_back_is_told_that_it_has_diverged() -> None:
    """At no evaluation, whether there are thirty of them or ten; nor is one with another seed told
    that it is worse than its base."""
    for every in (1, 2, 3):
        for run in (*AGAIN, *HIGH):
            curve = RUNS[run.name].curve
            fewer = judged(replace(curve, points=curve.points[every - 1 :: every]))
            false = {verdict.finding for verdict in fewer.false}
            assert "Diverged" not in false, (run.name, every)
            assert run in HIGH or not false & set(BY_THE_BASE), (run.name, every)


def test_every_run_that_diverges_is_told_so_amid_its_steps_and_at_the_end() -> None:
    away = [run for run in RUNS.values() if run.curve.diverged]
    assert [run.end for run in away] == ["Diverged"] * len(away)
    shares = [run.told / run.curve.steps if run.told else 1.0 for run in away]
    assert max(shares) <= TOLD_AFTER and median(shares) <= MOST_TOLD_AFTER, shares


def test_at_the_end_a_run_is_called_worse_than_its_base_where_it_is() -> None:
    for run in RUNS.values():
        worse = run.curve.points[-1].eval_loss >= run.curve.base
        assert (run.end in BY_THE_BASE) == (worse and run.end != "Overfitting"), run.curve.name


def test_a_tenth_of_the_rate_is_better() -> None:
    for high, tenth in zip(AWAY, TENTH, strict=True):
        last, lower = (RUNS[run.name].curve.points[-1] for run in (high, tenth))
        assert lower.eval_loss < last.eval_loss, high.name


def test_few_overfitted_runs_are_missed() -> None:
    found = tally([*RUNS.values()])
    assert found.missed <= MISSED * found.overfitted, found
