"""FineTuneJobs that nobody would write: samples changed at random, by the schema and against it.

Every change is made at a place that the CRD's schema has: a value taken away, another one that the
schema allows, one just outside its bounds, one of a hostile kind, or a field that it does not know.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from api_cases import SAMPLES, full_status, sample

Schema = Mapping[str, Any]
CRD = Path(__file__).resolve().parents[2] / "crds" / "finetunejobs.finetune.dev.yaml"
MAX_CHANGES = 5

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63 - 1, -(2**63), 1e308, 0.1, "", " ", "-", "..", "/", "\u0000",
    "a" * 300, "0", "1e400", "NaN", "-1", "१", "ﬀ\u202e", "$(id)", "{{ x }}", "'; rm -rf / #",
    "pvc://", "pvc://work/../../etc", "pvc://work//x", "hf://", "hf://a/b@c@d", "image://x",
    "https://user:secret@example.com/x", "file:///etc/passwd", "job://", "job://other/model",
    [], [[]], [None], [{}], {}, {"": ""}, {"a": {"b": {"c": []}}},
)  # fmt: skip
STRINGS = (
    "work", "a", "x" * 63, "hf://example/model", "hf://datasets/example/rows@main",
    "pvc://work/model", "pvc://other/rows.jsonl", "https://data.example.com/rows.jsonl.gz",
    "image://registry.example.com/facts:1//rows.jsonl", "job://demo", "1e-4", "0.5", "0", "3",
    "16Gi", "500m", "main", "text", "NCCL_DEBUG",
)  # fmt: skip


@cache
def schemas() -> tuple[Schema, Schema]:
    """Of spec and of status."""
    crd = yaml.load(CRD.read_text(), yaml.CSafeLoader)
    (version,) = crd["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    return properties["spec"], properties["status"]


class Fuzzer:
    """The same seed makes the same objects."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._spec, self._status = schemas()
        self._whole_status = full_status()
        samples = [sample(name)["spec"] for name in SAMPLES]
        self._samples = [*samples, *map(_on_the_claim_that_is_there, samples)]

    def job(self, name: str) -> dict[str, Any]:
        """A FineTuneJob that may or may not be right."""
        spec = copy.deepcopy(self._dice.choice(self._samples))
        for _ in range(self._dice.randrange(MAX_CHANGES)):
            self._change(spec, self._spec)
        if self._dice.random() < 0.02:
            spec = self._dice.choice(HOSTILE)
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": spec,
        }

    def status(self) -> dict[str, Any]:
        """A status that somebody else wrote."""
        status = copy.deepcopy(self._whole_status)
        for _ in range(self._dice.randrange(1, 8)):
            self._change(status, self._status)
        return status

    def _change(self, value: Any, schema: Schema) -> None:
        """Walk down to some place and change what is there."""
        while True:
            step = self._step(value, schema)
            if step is None:
                return
            place, below = step
            inner = value[place] if _has(value, place) else None
            deeper = isinstance(inner, (dict, list)) and inner and self._dice.random() < 0.75
            if deeper:
                value, schema = inner, below
                continue
            change: Callable[[Any, Any, Schema], None] = self._dice.choice(
                [self._remove, self._replace, self._replace, self._beside, self._poison, self._add]
            )
            change(value, place, below)
            return

    def _step(self, value: Any, schema: Schema) -> tuple[Any, Schema] | None:
        if isinstance(value, list):
            below = schema.get("items", {})
            return (self._dice.randrange(len(value)), below) if value else None
        if not isinstance(value, dict):
            return None
        known = schema.get("properties", {})
        names = sorted({*known, *value}, key=str)
        if not names:
            return None
        name = self._dice.choice(names)
        return name, known.get(name, schema.get("additionalProperties") or {})

    def _remove(self, parent: Any, place: Any, schema: Schema) -> None:
        if _has(parent, place):
            del parent[place]

    def _replace(self, parent: Any, place: Any, schema: Schema) -> None:
        parent[place] = self._allowed(schema)

    def _beside(self, parent: Any, place: Any, schema: Schema) -> None:
        """At a bound, or one step outside it."""
        bounds = [schema[name] for name in ("minimum", "maximum") if name in schema]
        if bounds:
            parent[place] = self._dice.choice(bounds) + self._dice.choice([-1, 0, 1])
        elif "maxLength" in schema:
            parent[place] = "a" * (schema["maxLength"] + self._dice.choice([0, 1]))
        elif isinstance(parent, list) and parent:
            parent.append(copy.deepcopy(parent[place]))
        else:
            parent[place] = self._allowed(schema)

    def _poison(self, parent: Any, place: Any, schema: Schema) -> None:
        parent[place] = copy.deepcopy(self._dice.choice(HOSTILE))

    def _add(self, parent: Any, place: Any, schema: Schema) -> None:
        if isinstance(parent, dict):
            parent[self._dice.choice(("unknown", "__proto__", "x" * 64))] = "x"

    def _allowed(self, schema: Schema, depth: int = 0) -> Any:
        """Something of the right type, mostly within the bounds."""
        if "enum" in schema:
            return self._dice.choice(schema["enum"])
        match schema.get("type"):
            case "integer":
                low = schema.get("minimum", 0)
                return self._dice.randint(low, max(low, min(schema.get("maximum", 64), low + 64)))
            case "number":
                return self._dice.uniform(0, 1)
            case "boolean":
                return self._dice.random() < 0.5
            case "array":
                count = self._dice.randrange(3) if depth < 6 else 0
                return [self._allowed(schema.get("items", {}), depth + 1) for _ in range(count)]
            case "object":
                known = schema.get("properties", {})
                needed = schema.get("required", [])
                return {
                    name: self._allowed(below, depth + 1)
                    for name, below in known.items()
                    if name in needed or (depth < 6 and self._dice.random() < 0.3)
                }
            case _:
                return self._dice.choice(STRINGS)


def _on_the_claim_that_is_there(spec: dict[str, Any]) -> dict[str, Any]:
    """Nothing is missing outside the job, so that more of what it says is looked at."""
    moved = copy.deepcopy(spec)
    moved["model"] = {"uri": "hf://example/model"}
    moved["storage"] = {"claimRef": {"name": "work"}}
    moved.get("output", {}).pop("uri", None)
    for number, source in enumerate(
        [s for of in ("train", "eval") for s in moved["data"].get(of, ())]
    ):
        source["uri"] = f"pvc://work/rows-{number}.jsonl"
    return moved


def _has(parent: Any, place: Any) -> bool:
    return place in parent if isinstance(parent, dict) else 0 <= place < len(parent)
