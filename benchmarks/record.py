"""The record ``benchmarks/results.md``: one section per capability, each rewritten by itself."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")


def _no_options(_: argparse.ArgumentParser) -> None:
    return None


@dataclass(frozen=True)
class Section:
    """What one run of the benchmark measures and writes."""

    title: str
    measure: Callable[[argparse.Namespace], str]
    """Returns the section's text and tables."""
    add_options: Callable[[argparse.ArgumentParser], None] = _no_options


@dataclass(frozen=True)
class Conditions:
    """Under which the figures of a section came about."""

    arguments: str
    """``ARGS`` of ``make bench`` that measures them again."""
    date: str
    cores: int
    load_before: float
    load_after: float

    def sentence(self) -> str:
        return (
            f'Measured by `make bench ARGS="{self.arguments}"` on {self.date}: {self.cores} cores, '
            f"load average {self.load_before:.1f} before and {self.load_after:.1f} after."
        )


def measured(section: Section, options: argparse.Namespace, arguments: str) -> None:
    """Run the section and put it into the record in place of its predecessor."""
    before = os.getloadavg()[0]
    body = section.measure(options)
    conditions = Conditions(
        arguments, time.strftime("%Y-%m-%d"), os.cpu_count() or 1, before, os.getloadavg()[0]
    )
    text = f"{conditions.sentence()}\n\n{body.strip()}"
    RESULTS.write_text(replaced(RESULTS.read_text(), section.title, text))
    print(f"## {section.title}\n\n{text}", flush=True)


def replaced(record: str, title: str, text: str) -> str:
    """The record with ``text`` as the section ``title``; all others stay as they are.

    A section that is not there yet comes last.
    """
    head, *rest = re.split(r"^## ", record, flags=re.MULTILINE)
    sections = dict(part.split("\n", 1) for part in rest)
    sections[title] = text
    parts = [head.strip(), *(f"## {name}\n\n{body.strip()}" for name, body in sections.items())]
    return "\n\n".join(parts) + "\n"
