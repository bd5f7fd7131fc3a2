"""The fault matrix: each row does its harm on the real cluster, then the invariants are checked.

``make test`` runs the short form; ``make test-faults [ROW=name]`` the whole, goes on after the
last row that passed with the same build, and keeps the record in ``benchmarks/results.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults import report
from faults.ground import Ground
from faults.matrix import Row, Tally, counts, load

ROWS = load()
PASSED = "finetune/faults"
HEARSAY = ("attempts_count_up_by_one", "the_end_is_absorbing", "restarts_are_counted_exactly",
           "every_job_was_announced")  # fmt: skip
"""Rules that judge the operator's status: void where somebody else wrote it, too."""

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])
def test_row(row: Row, request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    whole, wanted = pytestconfig.getoption("--whole"), pytestconfig.getoption("--row")
    if wanted and row.name not in wanted:
        pytest.skip(f"only {', '.join(wanted)} was asked for")
    if not (whole or wanted or row.short):
        pytest.skip("too long for the short form: make test-faults runs it")
    build: str = request.getfixturevalue("build")
    passed = _passed(pytestconfig, build)
    if whole and not wanted and row.name in passed:
        pytest.skip(f"this build passed on {passed[row.name].date}; ROW={row.name} runs it again")
    ground_of: Callable[[Row], Ground] = request.getfixturevalue("ground_of")

    ground, began = ground_of(row), time.monotonic()
    outcome = row.run(ground)
    time.sleep(1)  # a request is answered a moment before it is in the log
    led = ground.lives()
    found = ground.violations(led)
    told = counts(led)
    if outcome.spoilt:
        found = [text for text in found if not text.startswith(HEARSAY)]
        told |= {"restarts": 0, "steps_lost": 0}  # as the statuses have it
    tally = Tally(
        row.name, row.fault, row.holds, build, time.strftime("%Y-%m-%d"),
        time.monotonic() - began, outcome.kills, outcome.note, violations=found, **told,
    )  # fmt: skip
    print(tally)
    assert led, "the audit log knows of no job: nothing was checked"
    if whole:
        passed[row.name] = tally
        report.record(passed[name] for name in ROWS if name in passed)
    assert not found, "\n".join(found)
    if whole and pytestconfig.cache:
        pytestconfig.cache.set(PASSED, [passed[name].to_json() for name in passed])


def _passed(pytestconfig: pytest.Config, build: str) -> dict[str, Tally]:
    """Rows that this build has passed before."""
    kept = pytestconfig.cache.get(PASSED, []) if pytestconfig.cache else []
    tallies = [Tally(**one) for one in kept]
    return {tally.row: tally for tally in tallies if tally.build == build and tally.row in ROWS}
