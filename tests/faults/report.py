"""The matrix in the benchmark record: written by each run of the whole, row by row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from faults.matrix import Tally

from benchmarks.record import RESULTS, replaced

TITLE = "Fault matrix"
HEADER = (
    "| row | fault | kills | jobs | attempts | restarts | steps lost | violations | time | |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def record(tallies: Iterable[Tally]) -> None:
    """Put these rows into ``benchmarks/results.md`` in place of the section that was there."""
    RESULTS.write_text(replaced(RESULTS.read_text(), TITLE, section(list(tallies))))


def section(tallies: Sequence[Tally]) -> str:
    """The rows as Markdown."""
    total = sum(tally.seconds for tally in tallies)
    violations = sum(len(tally.violations) for tally in tallies)
    lines = [
        f"Measured by `make test-faults`, last on {max(t.date for t in tallies)}: "
        f"{os.cpu_count()} cores, {len(tallies)} rows in {total / 60:.0f} min, "
        f"{sum(t.kills for t in tallies)} kills, {violations} violations.",
        "",
        "Three nodes, Kubernetes 1.36.3. The invariants (docs/recovery.md) are checked in the API "
        "server's audit log and\nin the final state of the cluster. Attempts: Jobs of prepare, "
        "train and export. Steps lost: trained again.",
        "",
        HEADER,
        *map(_line, tallies),
    ]
    for tally in tallies:
        lines += [f"\n{tally.row}: {text}" for text in tally.violations]
    return "\n".join(lines)


def _line(tally: Tally) -> str:
    cells = (
        tally.row, tally.fault, tally.kills, tally.jobs, tally.gangs, tally.restarts,
        tally.steps_lost, len(tally.violations), f"{tally.seconds:.0f} s", tally.note,
    )  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
