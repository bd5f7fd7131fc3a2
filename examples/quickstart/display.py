"""What the user sees while stages run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

# Without a terminal a stage says something new at most this often, in seconds, and repeats itself
# only to show that it lives.
PLAIN_INTERVAL = 15.0
PLAIN_REPEAT = 120.0


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class StageView:
    """One line of the display. Times are ``time.monotonic()`` seconds."""

    name: str
    state: State = State.WAITING
    detail: str = ""
    fraction: float | None = None
    """0 to 1: shown as a bar."""
    started: float | None = None
    ended: float | None = None
    said: str = ""
    said_at: float = -math.inf

    @property
    def seconds(self) -> float:
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started


class Display:
    """Thread-safe. Use as a context manager; stages appear in the order they are added."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._stages: dict[str, StageView] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._live = (
            Live(self, console=console, refresh_per_second=8, transient=True) if live else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._console.print(self)

    def add(self, name: str) -> None:
        with self._lock:
            self._stages[name] = StageView(name)

    def start(self, name: str) -> None:
        with self._lock:
            view = self._stages[name]
            view.state, view.started = State.RUNNING, time.monotonic()
        self._line(name, "started")

    def detail(self, name: str, text: str, *, fraction: float | None = None) -> None:
        """What the stage is doing now, as half a sentence."""
        with self._lock:
            view = self._stages[name]
            view.detail = text.splitlines()[0] if text else ""
            view.fraction = fraction
            interval = PLAIN_REPEAT if view.detail == view.said else PLAIN_INTERVAL
            quiet = time.monotonic() - view.said_at < interval
            if not quiet:
                view.said, view.said_at = view.detail, time.monotonic()
        if not quiet:
            self._line(name, text)

    def done(self, name: str, text: str = "") -> None:
        self._end(name, State.DONE, text)
        self._line(name, f"done in {seconds(self._stages[name].seconds)}{_after(text)}")

    def failed(self, name: str, text: str) -> None:
        self._end(name, State.FAILED, text)
        first = text.splitlines()[0] if text else ""
        self._line(name, f"failed after {seconds(self._stages[name].seconds)}{_after(first)}")

    def note(self, text: str) -> None:
        """A line that stays, above the table."""
        self._console.print(text, highlight=False, markup=False)

    def times(self) -> list[tuple[str, float]]:
        """(stage, seconds) of all stages that ran, in their order."""
        return [(view.name, view.seconds) for view in self._stages.values() if view.started]

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def _end(self, name: str, state: State, text: str) -> None:
        with self._lock:
            view = self._stages[name]
            view.state, view.ended, view.fraction = state, time.monotonic(), None
            view.detail = text.splitlines()[0] if text else ""

    def _line(self, name: str, text: str) -> None:
        if self._live is None:
            self._console.print(
                f"{seconds(self.elapsed):>7}  {name}: {text}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        with self._lock:
            for view in self._stages.values():
                table.add_row(*_cells(view))
        yield Group(table, Text(f"   {seconds(self.elapsed)} in all", style="dim"))


def seconds(value: float) -> str:
    """63.4 -> ``1:03``, 7.25 -> ``7 s``, 4000 -> ``1:06:40``."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


_SPINNER = Spinner("dots", style="cyan")


def _cells(view: StageView) -> tuple[Spinner | Text, Text, Text, Text | Table]:
    marks = {State.WAITING: ("·", "dim"), State.DONE: ("✓", "green"), State.FAILED: ("✗", "red")}
    mark = _SPINNER if view.state is State.RUNNING else Text(*marks[view.state])
    name_style = {State.WAITING: "dim", State.FAILED: "bold red"}.get(view.state, "")
    clock = Text(seconds(view.seconds) if view.started else "", style="cyan")
    detail: Text | Table = Text(view.detail, style="dim")
    if view.fraction is not None:
        detail = Table.grid(padding=(0, 1))
        detail.add_row(ProgressBar(total=1.0, completed=view.fraction, width=24), Text(view.detail))
    return mark, Text(view.name, style=name_style), clock, detail


def _after(text: str) -> str:
    return f": {text}" if text else ""
