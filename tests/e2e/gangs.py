"""What the tests of real_trainer share: small gangs, and what their ranks wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RELEASE = "real"
WORK_SECONDS = 600.0
"""For what loads torch and trains, also on a host with other work."""
ONE_CPU = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
"""Four ranks share the machine: each computes with one thread, as its limit says."""
ROWS = 40
DATA = {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}], "sequenceLength": 64}


def step_of(attempt: Path, rank: int) -> int:
    """The last step that a rank has told."""
    try:
        return int(json.loads((attempt / f"heartbeats/rank-{rank}.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def curve(attempt: Path) -> list[tuple[int, float]]:
    """Step and loss, as one attempt wrote them."""
    return [(line["step"], line["loss"]) for line in lines_of(attempt) if "loss" in line]


def lines_of(attempt: Path) -> list[dict[str, Any]]:
    """What rank 0 wrote of each step, evaluation and checkpoint."""
    return [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
