"""JSON Schema of pydantic → structural schema of Kubernetes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from finetune_operator.api.crd import structural
from finetune_operator.api.schema import LabelKey, Quantity, SpecModel


class Inner(SpecModel):
    """Something inside."""

    size: Annotated[int, Field(ge=1, le=3)] = 2
    """How large."""


class Outer(SpecModel):
    """Everything that needs a translation."""

    kind: Literal["A"] = "A"
    """A constant."""
    maybe: Inner | None = None
    """May be absent,
    and says so on two lines."""
    filled: Inner = Inner()
    """Filled by the defaults of its fields."""
    items: Annotated[tuple[Inner, ...], Field(max_length=3)] = ()
    """A list."""
    labels: Annotated[dict[LabelKey, str], Field(max_length=4)] | None = None
    """A map."""
    amount: Quantity = "1Gi"
    """An amount."""


def translated(model: type[SpecModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


FIELDS = translated(Outer)["properties"]


def test_references_are_resolved_and_null_is_gone() -> None:
    assert FIELDS["maybe"] == {
        "type": "object",
        "description": "May be absent, and says so on two lines.",
        "properties": {
            "size": {
                "type": "integer",
                "format": "int32",
                "minimum": 1,
                "maximum": 3,
                "default": 2,
                "description": "How large.",
            }
        },
    }


def test_a_constant_is_an_enum_of_one() -> None:
    assert FIELDS["kind"]["enum"] == ["A"]


def test_an_object_is_filled_by_its_fields() -> None:
    assert FIELDS["filled"]["default"] == {}


def test_a_list_is_atomic_and_its_items_have_no_defaults() -> None:
    assert FIELDS["items"]["x-kubernetes-list-type"] == "atomic"
    assert "default" not in FIELDS["items"]
    assert "default" not in FIELDS["items"]["items"]["properties"]["size"]


def test_keys_of_a_map_are_judged_by_cel() -> None:
    assert FIELDS["labels"]["additionalProperties"] == {"type": "string"}
    [rule] = FIELDS["labels"]["x-kubernetes-validations"]
    assert rule["rule"].startswith("self.all(key, key.matches(")


def test_an_amount_is_an_integer_or_a_string() -> None:
    assert "type" not in FIELDS["amount"]
    assert FIELDS["amount"]["x-kubernetes-int-or-string"] is True


def test_an_unknown_keyword_is_not_dropped_in_silence() -> None:
    with pytest.raises(ValueError, match="multipleOf"):
        structural({"type": "integer", "multipleOf": 2}, {})


def test_a_choice_of_types_is_refused() -> None:
    with pytest.raises(ValueError, match="choice of types"):
        structural({"anyOf": [{"type": "integer"}, {"type": "string"}]}, {})


def test_the_writer_quotes_what_looks_like_a_number_elsewhere() -> None:
    """YAML 1.2 reads 1e-8 as a number, PyYAML (1.1) as a string: it would not quote it."""
    from finetune_operator.api.crd import _dump

    assert yaml.safe_dump("1e-8") == "1e-8\n...\n"
    assert _dump({"default": "1e-8"}) == "default: '1e-8'\n"
