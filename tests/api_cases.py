"""Samples and wrong objects for tests of the API, in memory."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent
SAMPLES = sorted(path.stem for path in (HERE / "samples").glob("*.yaml"))

CHANGES_REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "another model": ("model", {"uri": "hf://other/model"}),
    "a revision removed": ("model", {"revision": None}),
    "a data source added": ("data", {"train": [{"name": "x", "uri": "pvc://c/x"}]}),
    "another split": ("data", {"sequenceLength": 512}),
    "another rank": ("method", {"lora": {"rank": 8}}),
    "another method": ("method", {"lora": None, "full": {}}),
    "another learning rate": ("training", {"learningRate": "1e-4"}),
    "steps for epochs": ("training", {"epochs": None, "steps": 5}),
    "another seed": ("training", {"seed": 7}),
    "another ZeRO stage": ("deepspeed", {"zeroStage": 3}),
    "the ZeRO stage removed": ("deepspeed", {"zeroStage": None}),
    "more GPUs": ("workers", {"gpusPerWorker": 4}),
    "another node selector": ("workers", {"nodeSelector": {"example.com/pool": "other"}}),
    "the node selector removed": ("workers", {"nodeSelector": None}),
    "the environment removed": ("workers", {"env": None}),
    "memory for prepare": ("prepare", {"resources": {"requests": {"memory": "1Gi"}}}),
    "resources of export removed": ("export", {"resources": None}),
    "other evaluations": ("evaluation", {"everySteps": 7}),
    "a lower gate": ("gate", {"scores": [{"metric": "EvalLoss", "atMost": "2"}]}),
    "the gate removed": ("gate", None),
    "other checkpoints": ("checkpoint", {"keep": 9}),
    "another claim": ("storage", {"claimRef": {"name": "other"}}),
    "another output": ("output", {"uri": "pvc://other/place"}),
    "the output removed": ("output", {"uri": None}),
}
"""Changes of the stored full sample that the API server must refuse: field of spec, patch."""


def sample(name: str) -> dict[str, Any]:
    """A manifest of tests/samples."""
    return _loaded(f"samples/{name}.yaml")


def full_status() -> dict[str, Any]:
    """A status with every field, as it is stored."""
    return _loaded("contract/full_status.yaml")


def _steps(path: str) -> list[str | int]:
    """``a.b[0].c`` → a, b, 0, c."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]


def edited(
    manifest: dict[str, Any], changes: dict[str, Any] | None = None, remove: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A copy with other values at some paths, and without others."""
    result = copy.deepcopy(manifest)
    for path, value in (changes or {}).items():
        *parents, last = _steps(path)
        node: Any = result
        for step in parents:
            node = node[step] if isinstance(step, int) else node.setdefault(step, {})
        node[last] = value
    for path in remove:
        *parents, last = _steps(path)
        node = result
        for step in parents:
            node = node[step]
        del node[last]
    return result


@dataclass(frozen=True)
class WrongObject:
    """A sample with one thing wrong, and what the user must be told."""

    name: str
    sample: str
    field: str
    says: str
    set: dict[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    @property
    def manifest(self) -> dict[str, Any]:
        return edited(sample(self.sample), self.set, tuple(self.remove))


@cache
def wrong_objects() -> tuple[WrongObject, ...]:
    """The table of tests/contract/wrong_objects.yaml."""
    return tuple(WrongObject(**row) for row in _loaded("contract/wrong_objects.yaml"))


def _loaded(path: str) -> Any:
    return yaml.load((HERE / path).read_text(), yaml.CSafeLoader)
