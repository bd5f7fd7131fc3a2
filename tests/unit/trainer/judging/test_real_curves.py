"""The rules on loss curves of real runs, judged by what the runs did afterwards.

``make bench ARGS=curves`` makes the curves; ``benchmarks.verdicts`` has what counts as false.
"""

from __future__ import annotations

from benchmarks.curves import CURVES
from benchmarks.curves_section import CHOICE, JUDGED
from benchmarks.verdicts import judged, read, tally

FALSE = 0.05
MISSED = 0.05
RUNS = {run.name: judged(run) for run in read(CURVES)}


def test_there_are_curves_of_all_runs_and_of_all_kinds() -> None:
    assert {run.name for run in (*CHOICE, *JUDGED)} == set(RUNS) and len(RUNS) >= 24
    curves = [run.curve for run in RUNS.values()]
    assert all(len(curve.points) >= 20 for curve in curves)
    assert sum(curve.overfitted for curve in curves) >= 4
    assert sum(curve.points[-1].eval_loss == curve.best for curve in curves) >= 6


def test_few_alarms_are_false() -> None:
    found = tally([*RUNS.values()])
    assert found.verdicts >= found.runs and found.false_runs <= FALSE * found.runs, found
    assert found.false_verdicts <= FALSE * found.verdicts, found


def test_few_overfitted_runs_are_missed() -> None:
    found = tally([*RUNS.values()])
    assert found.missed <= MISSED * found.overfitted, found
