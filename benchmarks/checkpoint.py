"""What a checkpoint costs training, read from the trainer's own metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

WARM_UP = 2
"""First steps, which allocate memory; they do not count."""


@dataclass(frozen=True)
class Save:
    """One checkpoint."""

    step: int
    bytes: int
    stall: float
    """Seconds by which the steps from its begin to the next one took longer than others do.

    So it holds the time in which training stood still, and what hashing and writing took away from
    the steps beside them.
    """
    stood_still: float
    """Of these, the seconds in which no training went on, as the trainer counts them."""
    seconds: float
    """From its begin until it was published."""


def saves(metrics: Path, every: int) -> list[Save]:
    """The checkpoints of a run with one every ``every`` steps, each with all steps up to the next.

    A step undisturbed is the median of those that end before a save begins or begin after it was
    published.
    """
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    ended = {line["step"]: float(line["at"]) for line in lines if "computeSeconds" in line}
    saved = {line["step"]: line for line in lines if "stallSeconds" in line}
    took = {late: ended[late] - ended[early] for early, late in pairwise(sorted(ended))}
    disturbed = {
        step
        for begin, line in saved.items()
        for step in took
        if step > begin and ended[step] - took[step] < float(line["at"])
    }
    calm = median(
        seconds for step, seconds in took.items() if step > WARM_UP and step not in disturbed
    )
    return [
        Save(
            step=begin,
            bytes=line["checkpointBytes"],
            stall=sum(took[step] - calm for step in range(begin + 1, begin + every + 1)),
            stood_still=line["stallSeconds"],
            seconds=line["seconds"],
        )
        for begin, line in sorted(saved.items())
        if begin + every in took
    ]
