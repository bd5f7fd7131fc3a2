"""A rank tells how many collectives it has begun while it stands in one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import joined

from finetune_trainer import collectives
from finetune_trainer.rendezvous import Place


def come_late(place: Place, folder: Path) -> tuple[int, int]:
    """The last rank comes to the fourth exchange once the first one stands in it, by its count.

    Brings home both counts as they were then."""
    gang = joined(place)
    gang.barrier()
    path = folder / f"{place.rank}.json"
    before = gang.collectives_begun()
    collectives.tell(path, lambda: gang.collectives_begun() - before)
    for _ in range(3):
        gang.sums(1.0)
    seen = (0, 0)
    if place.rank == 1:
        deadline = time.monotonic() + 60
        while seen != (4, 3) and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = collectives.read(folder / "0.json") or 0, collectives.read(path) or 0
    gang.sums(1.0)
    return seen


@pytest.mark.gang
def test_the_count_says_who_has_not_come(tmp_path: Path) -> None:
    _, seen = run_gang(come_late, 2, tmp_path)
    assert seen == (4, 3)
