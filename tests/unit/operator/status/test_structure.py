"""A status has the structure and the sizes that the API server takes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import ended_pod, failure_words, make_facts
from unit.operator.status.cases import FAILED, ready_gang, train
from unit.operator.status.rows import ROWS

from finetune_operator.policies.facts import Facts
from finetune_operator.status import decide

CRD = Path(__file__).parents[4] / "crds" / "finetunejobs.finetune.dev.yaml"


@cache
def status_schema() -> Any:
    version = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]["status"]


def misfits(schema: Any, value: Any, path: str = "status") -> list[str]:
    """Where a value breaks the structure that the API server enforces."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, kinds.get(schema.get("type"), object)):
        return [f"{path}: {value!r} is no {schema['type']}"]
    if value not in schema.get("enum", [value]):
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    found: list[str] = []
    if isinstance(value, dict):
        fields, rest = schema.get("properties", {}), schema.get("additionalProperties")
        found += [f"{path}.{name}: missing" for name in schema.get("required", ())
                  if name not in value]  # fmt: skip
        for name, part in value.items():
            if name not in fields and not rest:
                found.append(f"{path}.{name}: unknown")
            else:
                found += misfits(fields.get(name) or rest, part, f"{path}.{name}")
    if isinstance(value, list):
        for part in value:
            found += misfits(schema["items"], part, f"{path}[]")
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        found.append(f"{path}: {len(value)} characters")
    return found


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_a_decided_status_has_the_structure_of_the_crd(facts: Facts) -> None:
    assert misfits(status_schema(), json.loads(json.dumps(decide(facts).status))) == []


def test_long_texts_are_cut_to_what_the_api_takes() -> None:
    words = failure_words(message="x" * 5000, lines=["y" * 5000] * 50)
    facts = make_facts(
        ready_gang(), jobs=train(**FAILED), pods=(ended_pod(1, code=71, words=words),)
    )
    failure = decide(facts).status["failure"]
    assert len(failure["message"]) <= 1024
    assert len(failure["lines"]) <= 20 and max(map(len, failure["lines"])) <= 1024
