"""The rows of the fault matrix: one function for each, found by itself in ``faults/rows``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faults.ground import Ground
    from faults.history import Life


@dataclass(frozen=True)
class Outcome:
    """What a row has to say beyond what the audit log says."""

    kills: int = 0
    """Processes, nodes or servers that it ended."""
    note: str = ""
    """Its figures in one line, for the record."""
    spoilt: bool = False
    """Somebody else wrote statuses in this row: only the rules that hold all the same count."""


@dataclass(frozen=True)
class Row:
    """A fault and what must hold under it."""

    name: str
    fault: str
    holds: str
    run: Callable[[Ground], Outcome]
    """Does the harm, waits until all is over, asserts what is special about this row. The
    invariants of the whole matrix are checked after it."""
    short: bool
    """Whether its short form is part of ``make test``."""


ROWS: dict[str, Row] = {}


def row(
    name: str, fault: str, holds: str, *, short: bool = True
) -> Callable[[Callable[[Ground], Outcome]], Callable[[Ground], Outcome]]:
    """Put a function into the matrix. It asks ``ground.whole`` how much it is to do."""

    def put(run: Callable[[Ground], Outcome]) -> Callable[[Ground], Outcome]:
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, fault, holds, run, short)
        return run

    return put


def load() -> dict[str, Row]:
    """All rows by name, in the order of their files and in these."""
    for file in sorted((Path(__file__).parent / "rows").glob("*.py")):
        importlib.import_module(f"faults.rows.{file.stem}")
    return ROWS


@dataclass(frozen=True)
class Tally:
    """One row as it stands in the record."""

    row: str
    fault: str
    holds: str
    build: str
    """What was tested; another build has to pass again."""
    date: str
    seconds: float
    kills: int
    note: str
    jobs: int
    gangs: int
    """Jobs that were created for a stage: every attempt of prepare, train and export."""
    restarts: int
    steps_lost: int
    violations: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def counts(lives: Iterable[Life]) -> dict[str, int]:
    """Jobs, attempts, restarts and lost steps of these lives."""
    known = list(lives)
    restarts = [life.status.get("restarts") or {} for life in known]
    return {
        "jobs": len(known),
        "gangs": sum(len(life.jobs) for life in known),
        "restarts": sum(r.get("total", 0) for r in restarts),
        "steps_lost": sum(r.get("stepsRedone", 0) for r in restarts),
    }
