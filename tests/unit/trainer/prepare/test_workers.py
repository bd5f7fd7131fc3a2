"""Work in processes: the same results, in order, and no process is left behind or waited for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.errors import BadData, StageError
from finetune_trainer.prepare.workers import in_order

PARTS = range(40)


def slow_at_first(part: int) -> tuple[int, int]:
    time.sleep(0.02 if part % 3 == 0 else 0)
    return part, os.getpid()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_parts(processes: int) -> None:
    found = list(in_order(slow_at_first, PARTS, processes))
    assert [part for part, _ in found] == list(PARTS)
    pids = {pid for _, pid in found}
    assert len(pids) == processes
    assert (os.getpid() in pids) is (processes == 1)


def test_little_work_starts_no_process() -> None:
    assert {pid for _, pid in in_order(slow_at_first, range(4), 8)} == {os.getpid()}


def test_only_a_few_parts_are_on_the_way() -> None:
    asked: list[int] = []

    def parts() -> Iterator[int]:
        for part in range(1000):
            asked.append(part)
            yield part

    for part, _ in in_order(slow_at_first, parts(), 2):
        assert asked[-1] <= part + 4
        if part == 20:
            break


def test_nobody_looks_for_garbage_among_what_workers_share() -> None:
    """It would write to all of it, and then each process has a copy."""
    results = in_order(slow_at_first, PARTS, 2)
    next(results)
    assert gc.get_freeze_count() > 0
    results.close()  # type: ignore[attr-defined]
    assert gc.get_freeze_count() == 0


def refusing(part: int) -> int:
    if part in (9, 11):
        raise BadData(f"part {part}", "look at it")
    return part


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_fault_is_raised_behind_the_results_in_front_of_it(processes: int) -> None:
    found = []
    with pytest.raises(BadData, match="part 9") as raised:
        found.extend(in_order(refusing, PARTS, processes))
    assert raised.value.hint == "look at it"


@pytest.mark.parametrize("good", [0, 3, 4, 5, 8])
@pytest.mark.parametrize("processes", [1, 2])
def test_parts_in_front_of_a_broken_one_are_worked_on(processes: int, good: int) -> None:
    def parts() -> Iterator[int]:
        yield from range(good)
        raise BadData("the file ends here")

    found: list[int] = []
    with pytest.raises(BadData, match="the file ends here"):
        for part in in_order(lambda part: part, parts(), processes):
            found.append(part)
    assert found == list(range(good))


def dying(part: int) -> int:
    if part == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def test_a_worker_that_is_killed_is_a_reason_and_no_hang() -> None:
    with pytest.raises(StageError, match="a worker process of prepare was killed"):
        list(in_order(dying, PARTS, 2))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        from finetune_trainer.prepare.workers import in_order

        def work(part):
            (Path(sys.argv[1]) / str(os.getpid())).touch()
            time.sleep(60)

        list(in_order(work, range(40), 2))
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    workers = {int(path.name) for path in tmp_path.iterdir()}
    assert len(workers) == 2
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, workers))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
