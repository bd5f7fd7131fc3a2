"""Stages overlap, wait for what they need, and fail as one."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from quickstart.display import Display, seconds
from quickstart.stages import Reporter, Stages


def plain() -> tuple[Display, io.StringIO]:
    written = io.StringIO()
    return Display(Console(file=written, width=120), live=False), written


def test_independent_stages_run_side_by_side() -> None:
    display, _ = plain()
    meeting = threading.Barrier(2, timeout=5)
    stages = Stages(display)
    for name in ("one", "two"):
        stages.add(name, lambda report: meeting.wait())
    stages.wait()


def test_a_stage_starts_when_what_it_needs_is_done() -> None:
    display, _ = plain()
    order: list[str] = []
    stages = Stages(display)
    gate = threading.Event()

    def first(report: Reporter) -> None:
        gate.wait(5)
        order.append("first")

    needed = stages.add("first", first)
    stages.add("second", lambda report: order.append("second"), after=[needed])
    gate.set()
    stages.wait()
    assert order == ["first", "second"]


def test_the_first_error_is_raised_and_dependents_never_begin() -> None:
    display, written = plain()
    stages = Stages(display)

    def fail(report: Reporter) -> None:
        raise RuntimeError("no disk")

    failed = stages.add("images", fail)
    stages.add("cluster", lambda report: pytest.fail("must not run"), after=[failed])
    with pytest.raises(RuntimeError, match="no disk"):
        stages.wait()
    assert "images: failed after 0 s: no disk" in written.getvalue()
    assert "cluster: started" not in written.getvalue()


def test_without_a_terminal_stages_are_plain_lines_with_elapsed_time() -> None:
    display, written = plain()
    with display:
        stages = Stages(display)
        stages.add("images", lambda report: report("building [bold]x[/bold]"))
        stages.wait()
    lines = written.getvalue().splitlines()
    assert [line.strip() for line in lines] == [
        "0 s  images: started",
        "0 s  images: building [bold]x[/bold]",
        "0 s  images: done in 0 s",
    ]


def test_on_a_terminal_the_table_shows_state_time_and_detail() -> None:
    written = io.StringIO()
    console = Console(file=written, width=100, force_terminal=True, color_system=None)
    with Display(console, live=True) as display:
        stages = Stages(display)
        stages.add("train", lambda report: report("step 1 of 4", 0.25) or "4 steps")
        stages.wait()
    last = written.getvalue().splitlines()[-2]
    assert "✓" in last and "train" in last and "4 steps" in last


@pytest.mark.parametrize(
    ("value", "text"), [(0.2, "0 s"), (59.4, "59 s"), (63.4, "1:03"), (4000, "1:06:40")]
)
def test_times_read_like_a_clock(value: float, text: str) -> None:
    assert seconds(value) == text
