"""What a checkpoint costs training, read from what the trainer, or its peer, told of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

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


def saves(told: Iterable[Mapping[str, Any]], every: int) -> list[Save]:
    """The checkpoints of a run with one every ``every`` steps, each with all steps up to the next.

    ``told``: the lines of metrics.jsonl. A step undisturbed is the median of those that end before
    a save begins or begin after it was published.
    """
    lines = list(told)
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


def lines_of_peer(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a rank of Hugging Face's Trainer told (`training_peers.Told`), as ours tells it."""
    steps = [
        {"step": step, "at": at, "computeSeconds": seconds}
        for step, (at, seconds) in enumerate(zip(told["ended"], told["seconds"], strict=True), 1)
    ]
    return steps + [
        {
            "step": int(save["step"]),
            "at": save["at"],
            "checkpointBytes": int(save["bytes"]),
            "stallSeconds": save["seconds"],
            "seconds": save["seconds"],
        }
        for save in told["saved"]
    ]
