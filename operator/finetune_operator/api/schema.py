"""Building blocks of the API types: the base model, CEL rules, decimal strings, names.

A rule that spans fields is written once, next to the fields: as CEL for the API server and, where
a manifest must also be judged without one, as a check in Python.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

VALIDATIONS = "x-kubernetes-validations"

DECIMAL = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"
"""A non-negative decimal number; an exponent is allowed: ``2e-4``."""
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_KEY = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
)
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


@dataclass(frozen=True)
class Rule:
    """A CEL rule of one schema node.

    ``check`` is the same rule in Python, for the models; None where only the API server judges
    (rules that compare with the stored object).
    """

    cel: str
    message: str
    field_path: str | None = None
    """Where the API server reports a violation, relative to the node: ``.training.epochs``."""
    check: Callable[[Any], bool] | None = None

    def wire(self) -> dict[str, str]:
        """As a CRD holds it."""
        place = {"fieldPath": self.field_path} if self.field_path else {}
        return {"rule": self.cel, "message": self.message, **place}


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_empty_lists(part) if isinstance(part, dict | list) else part
            for name, part in value.items()
            if part != []
        }
    return [_without_empty_lists(part) for part in value] if isinstance(value, list) else value


class ApiModel(BaseModel):
    """Base of every API object: camelCase on the wire, frozen, described by its docstrings."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        use_attribute_docstrings=True,
        defer_build=True,  # validators are built when they are first used, not at start
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> ApiModel:
        broken = [rule.message for rule in self.rules if rule.check and not rule.check(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def wire(self) -> dict[str, Any]:
        """As Kubernetes stores it: camelCase keys; absent, not null or an empty list."""
        wire: dict[str, Any] = _without_empty_lists(
            self.model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        return wire

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        reference = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(reference)[VALIDATIONS] = [r.wire() for r in cls.rules]
        return reference


class SpecModel(ApiModel):
    """Part of ``spec``. An unknown field is an error: it would be a wish that nobody fulfils."""

    model_config = ConfigDict(extra="forbid")


class StatusModel(ApiModel):
    """Part of ``status``. Unknown fields are dropped: a newer operator may have written them."""

    model_config = ConfigDict(extra="ignore")


LIST_SET = {"x-kubernetes-list-type": "set"}
"""Schema of a list whose items differ. Lists without a mark of their own are atomic."""


def list_map(key: str) -> dict[str, Any]:
    """Schema of a list whose items are told apart by the field ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def exactly_one(*names: str, message: str) -> Rule:
    """A union by presence: one of the fields is there, the others are not."""
    count = " + ".join(f"(has(self.{to_camel(name)}) ? 1 : 0)" for name in names)
    return Rule(
        cel=f"{count} == 1",
        message=message,
        check=lambda model: sum(getattr(model, name) is not None for name in names) == 1,
    )


class _CelString:
    """Annotation of a string: checked in Python by its subclass, by CEL in the API server.

    Used instead of a schema ``pattern`` where a person needs a sentence, not an expression.
    """

    message: str
    cel: str
    max_length: ClassVar[int]

    def accepts(self, value: str) -> bool:
        raise NotImplementedError

    def _check(self, value: str) -> str:
        if not self.accepts(value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        if schema["type"] == "str":
            schema = core_schema.str_schema(max_length=self.max_length)
        return core_schema.no_info_after_validator_function(self._check, schema)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        inner = handler(schema)
        rule = {"rule": self.cel, "message": self.message}
        return {**inner, VALIDATIONS: [*inner.get(VALIDATIONS, []), rule]}


@dataclass(frozen=True)
class Matches(_CelString):
    """The string matches ``pattern``, which is anchored at both ends."""

    pattern: str
    message: str
    max_length: ClassVar[int] = 1024

    @property
    def cel(self) -> str:  # type: ignore[override]
        return f"self.matches(r'{self.pattern}')"

    def accepts(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class DecimalRange(_CelString):
    """A decimal number within bounds, as a string: Kubernetes has no floats in specs.

    ``low_open``: the lower bound itself is refused.
    """

    low: float
    high: float
    low_open: bool = False
    example: str = "0.1"
    max_length: ClassVar[int] = 24

    @property
    def message(self) -> str:  # type: ignore[override]
        low = f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        return (
            f"must be a decimal number {low} and at most {self.high:g}, "
            f'written as a string such as "{self.example}"'
        )

    @property
    def cel(self) -> str:  # type: ignore[override]
        sign = ">" if self.low_open else ">="
        return (
            f"self.matches(r'{DECIMAL}') && double(self) {sign} {float(self.low)!r}"
            f" && double(self) <= {float(self.high)!r}"
        )

    def accepts(self, value: str) -> bool:
        if re.fullmatch(DECIMAL, value) is None:
            return False
        number = float(value)
        return self.low <= number <= self.high and not (self.low_open and number == self.low)


Decimal = Annotated[str, Field(max_length=32)]
"""A decimal number in status, written by the operator; ``float()`` reads it. What is not finite is
``NaN``, ``Infinity`` or ``-Infinity``."""


def decimal_string(value: float, digits: int = 6) -> str:
    """A number as status holds it: at most ``digits`` significant digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return f"{value:.{digits}g}"


def _whole_seconds(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


def _wire_time(value: datetime) -> str:
    # A model that was copied with a new value has not validated it.
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Timestamp = Annotated[
    datetime,
    AfterValidator(_whole_seconds),
    PlainSerializer(_wire_time, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A point in time with whole seconds, in UTC, as in ``metadata.creationTimestamp``."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
LabelKey = Annotated[str, Field(min_length=1, max_length=253, pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


def _is_quantity(value: int | str) -> int | str:
    if re.fullmatch(QUANTITY, str(value)) is None:
        raise ValueError("must be an amount in Kubernetes notation such as 500m, 2 or 32Gi")
    return value


_SUFFIXES = ("", "k", "M", "G", "T", "P")


def quantity_value(quantity: int | str) -> int:
    """A quantity as a whole number, rounded up: bytes for memory."""
    text = str(quantity)
    number = text.rstrip("mkMGTPKi")
    suffix = text[len(number) :]
    if suffix == "m":
        return math.ceil(Fraction(number) / 1000)
    base = 1024 if suffix.endswith("i") else 1000
    power = _SUFFIXES.index(suffix.removesuffix("i").replace("K", "k"))
    return math.ceil(Fraction(number) * int(base**power))


Quantity = Annotated[
    int | str,
    AfterValidator(_is_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 32}),
]
"""An amount in Kubernetes notation: ``2``, ``500m``, ``32Gi``."""
