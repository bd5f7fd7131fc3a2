"""The CRD: made from the models, structural, described, bounded, small."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from api_cases import ROOT, SAMPLES, full_status, sample

from finetune_operator.api.crd import COLUMNS, MAX_BYTES, crd, crd_yaml, generated_files

GOLDEN = ROOT / "tests" / "golden" / "api_fields.txt"
FORBIDDEN = {
    "$ref", "$defs", "definitions", "deprecated", "discriminator", "id", "patternProperties",
    "readOnly", "writeOnly", "xml", "const", "prefixItems", "uniqueItems", "exclusiveMinimum",
    "exclusiveMaximum", "nullable", "anyOf", "oneOf", "allOf", "not", "title", "propertyNames",
}  # fmt: skip
"""What a structural schema must not have, or what we never need in one."""
TELLS_WHAT_TO_DO = re.compile(
    r"\bmust\b|\bset exactly one of\b|[:,] (add|change|create|give|name|put|remove|set|use|write)\b"
)
"""The form that a value must have, or what to change."""


def _schema() -> dict[str, Any]:
    [version] = crd()["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def _nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of the schema with its path; ``[]`` is an item, ``{}`` a value of a map."""
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from _nodes(field, f"{path}.{name}".lstrip("."))
    if "items" in node:
        yield from _nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _nodes(node["additionalProperties"], f"{path}{{}}")


NODES = list(_nodes(_schema()))
SPEC = [(path, node) for path, node in NODES if path.startswith("spec")]


def test_generated_files_are_up_to_date() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generated_files(ROOT).items()
        if not path.is_file() or path.read_text() != text
    ]

    assert not stale, f"run `make generate`: {', '.join(stale)}"


def test_the_yaml_says_what_the_models_say() -> None:
    assert yaml.load(crd_yaml(), yaml.CSafeLoader) == crd()


def test_numbers_in_strings_stay_strings_in_the_yaml_of_kubernetes() -> None:
    """PyYAML writes 1e-8 bare, and Kubernetes would read a number: a default of a wrong type."""
    assert "default: '1e-8'" in crd_yaml()


def test_client_side_apply_can_hold_it() -> None:
    assert len(crd_yaml().encode()) < MAX_BYTES


def test_every_node_is_structural() -> None:
    for path, node in NODES:
        assert not node.keys() & FORBIDDEN, path
        assert ("type" in node) != (node.get("x-kubernetes-int-or-string") is True), path
        assert node.get("additionalProperties") is not False, path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path


def test_every_field_is_described() -> None:
    plain = {"metadata", "metadata.name"}
    bare = [
        path
        for path, node in NODES
        if not node.get("description") and not path.endswith(("[]", "{}")) and path not in plain
    ]

    assert not bare


def test_everything_in_spec_is_bounded() -> None:
    bounds = {
        "string": {"maxLength", "enum"},
        "array": {"maxItems"},
        "integer": {"maximum"},
    }
    unbounded = [
        path
        for path, node in SPEC
        if (kind := node.get("type")) in bounds and not node.keys() & bounds[kind]
    ]
    maps = [p for p, n in SPEC if "additionalProperties" in n and "maxProperties" not in n]

    assert not unbounded
    assert not maps


def test_numbers_with_fractions_are_strings() -> None:
    assert not [path for path, node in NODES if node.get("type") == "number"]


def test_every_list_says_how_it_is_merged() -> None:
    for path, node in NODES:
        if node.get("type") != "array":
            continue
        kind = node["x-kubernetes-list-type"]
        keys = node.get("x-kubernetes-list-map-keys", [])
        assert (kind == "map") == bool(keys), path
        assert set(keys) <= set(node["items"].get("required", ())), path


def test_items_of_lists_have_no_defaults() -> None:
    """A client that compares the whole list with its manifest would see a change for ever."""
    assert not [path for path, node in NODES if "[]" in path and "default" in node]


def test_defaults_of_objects_are_filled_by_their_fields() -> None:
    assert all(
        node["default"] in ({}, {"observedGeneration": -1})
        for _, node in NODES
        if node.get("type") == "object" and "default" in node
    )


def test_rules_of_an_object_by_default_ask_whether_a_field_is_there() -> None:
    """The API server judges a default by its rules before it fills the default's own fields, and
    refuses the whole CRD."""
    bare = [
        f"{path}: {rule['rule']}"
        for path, node in NODES
        if "default" in node
        for rule in node.get("x-kubernetes-validations", ())
        for field in re.findall(r"(?<!has\()self\.(\w+)", rule["rule"])
        if f"has(self.{field})" not in rule["rule"]
        and "default" in node.get("properties", {}).get(field, {})
    ]

    assert not bare


def test_a_fresh_object_is_not_current() -> None:
    assert _schema()["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_every_cel_rule_says_what_to_do() -> None:
    """Without a message the API server would print the expression."""
    rules = [rule for _, node in NODES for rule in node.get("x-kubernetes-validations", ())]
    messages = sorted({rule.get("message", rule["rule"]) for rule in rules})

    assert messages
    assert [message for message in messages if not TELLS_WHAT_TO_DO.search(message)] == []


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column[0])
def test_the_column_shows_a_field_that_exists(column: tuple[str, str, str, int]) -> None:
    _, kind, path, _ = column
    if path == ".metadata.creationTimestamp":
        return
    types = {name: node.get("type") for name, node in NODES}
    name = path.lstrip(".").replace('[?(@.type=="Succeeded")]', "[]")

    assert types[name] == kind


def test_names_people_type() -> None:
    names = crd()["spec"]["names"]

    assert names["shortNames"] == ["ftj"]
    assert names["categories"] == ["finetune"]
    assert crd()["spec"]["scope"] == "Namespaced"


def test_the_samples_use_every_field_of_spec() -> None:
    used = {path for name in SAMPLES for path in _paths(sample(name)["spec"], "spec")}
    fields = {path for path, _ in SPEC if not path.endswith(("[]", "{}"))}
    alike = ("spec.data.eval[].", "spec.data.general[].")
    sources_alike = {path for path in fields if path.startswith(alike)}

    assert sorted(fields - used - sources_alike) == []


def test_the_full_status_has_every_field_of_status() -> None:
    fields = {p for p, _ in NODES if p.startswith("status") and not p.endswith(("[]", "{}"))}

    assert sorted(fields - set(_paths(full_status(), "status"))) == []


def _paths(value: Any, path: str) -> Iterator[str]:
    yield path
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _paths(part, f"{path}.{name}")
    if isinstance(value, list):
        for part in value:
            yield from _paths(part, f"{path}[]")


def _line(path: str, node: dict[str, Any]) -> str:
    kind = node.get("type", "quantity")
    words = [path, kind]
    words += [f"{key}={node[key]}" for key in ("minimum", "maximum", "maxItems") if key in node]
    if "enum" in node:
        words.append("|".join(map(str, node["enum"])))
    if "default" in node:
        words.append(f"default={node['default']!r}")
    if "required" in node:
        words.append(f"required={','.join(node['required'])}")
    return " ".join(words)


def test_the_api_is_the_one_that_was_reviewed() -> None:
    """One line a field. ``UPDATE_GOLDEN=1`` writes the file; then read the diff."""
    text = "".join(f"{_line(path, node)}\n" for path, node in NODES if path)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)

    assert GOLDEN.read_text() == text


def test_nothing_computed_is_required_of_a_status() -> None:
    """What is not known yet is absent; a status without it must be storable."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    status = schema["status"]["properties"]
    demanding = {name: part["required"] for name, part in status.items() if "required" in part}
    assert demanding == {
        "goodput": ["until"],  # an account up to no time is none
        "lock": ["digest", "model", "data", "spec", "image", "seed"],  # it would lock nothing
        "reused": ["job", "uid", "path"],  # of nobody knows whom
    }
