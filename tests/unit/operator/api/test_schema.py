"""The building blocks of the API types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from finetune_operator.api.schema import (
    VALIDATIONS,
    ApiModel,
    DecimalRange,
    Matches,
    Quantity,
    SpecModel,
    Timestamp,
    decimal_string,
    exactly_one,
)

RATE = DecimalRange(0, 10, low_open=True, example="2e-4")
SHARE = DecimalRange(0, 1)


@pytest.mark.parametrize("text", ["2e-4", "0.0002", "10", "1E1", "1.0e+0", "00.5"])
def test_a_decimal_within_its_range_is_kept_as_it_is(text: str) -> None:
    assert TypeAdapter(Annotated[str, RATE]).validate_python(text) == text


@pytest.mark.parametrize(
    "text",
    ["0", "0e0", "-1", "+1", "11", "1e2", "high", "", " 1", "1 ", "1\n", ".5", "5.", "1e", "nan",
     "inf", "0x1", "1_000", "١"],
)  # fmt: skip
def test_a_decimal_outside_or_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r'above 0 and at most 10.*"2e-4"'):
        TypeAdapter(Annotated[str, RATE]).validate_python(text)


def test_a_closed_lower_bound_belongs_to_the_range() -> None:
    assert SHARE.accepts("0") and SHARE.accepts("1") and not SHARE.accepts("1.01")


def test_a_number_is_no_decimal_string() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[str, RATE]).validate_python(0.1)


def test_the_range_is_the_same_in_cel() -> None:
    schema = TypeAdapter(Annotated[str, RATE]).json_schema()

    assert schema["maxLength"] == RATE.max_length
    [rule] = schema[VALIDATIONS]
    assert rule["rule"].endswith("double(self) > 0.0 && double(self) <= 10.0")
    assert rule["message"] == RATE.message


def test_two_forms_of_a_string_are_both_asked_for() -> None:
    both = TypeAdapter(Annotated[str, Matches("^a.*$", "starts with a"), Matches("^.*z$", "z")])

    assert both.validate_python("abcz") == "abcz"
    assert len(both.json_schema()[VALIDATIONS]) == 2
    for wrong in ("abc", "bcz"):
        with pytest.raises(ValidationError):
            both.validate_python(wrong)


@pytest.mark.parametrize("amount", [2, "2", "500m", "1.5Gi", "32Gi", "10k"])
def test_an_amount_in_kubernetes_notation_is_accepted(amount: int | str) -> None:
    assert TypeAdapter(Quantity).validate_python(amount) == amount


@pytest.mark.parametrize("amount", ["32 GB", "lots", "-1", "1gi", "", -1])
def test_other_amounts_are_refused(amount: int | str) -> None:
    with pytest.raises(ValidationError, match="Kubernetes notation"):
        TypeAdapter(Quantity).validate_python(amount)


class Choice(SpecModel):
    """A union by presence."""

    one: int | None = None
    other_one: int | None = None
    rules = (exactly_one("one", "other_one", message="set exactly one"),)


@pytest.mark.parametrize("given", [{}, {"one": 1, "otherOne": 2}])
def test_a_union_takes_exactly_one(given: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="set exactly one"):
        Choice.model_validate(given)


def test_a_union_is_cel_too() -> None:
    [rule] = Choice.model_json_schema(by_alias=True)[VALIDATIONS]

    assert rule["rule"] == "(has(self.one) ? 1 : 0) + (has(self.otherOne) ? 1 : 0) == 1"


class Wire(ApiModel):
    """Something to store."""

    some_list: tuple[int, ...] = ()
    inner: Choice | None = None
    at: Timestamp | None = None


def test_absent_things_are_not_stored_as_null_or_empty_lists() -> None:
    assert Wire().wire() == {}
    assert Wire(some_list=(1,), inner=Choice(one=1)).wire() == {
        "someList": [1],
        "inner": {"one": 1},
    }


def test_times_are_stored_as_kubernetes_stores_them() -> None:
    at = datetime(2026, 11, 23, 8, 0, 1, 999_999, tzinfo=timezone(timedelta(hours=2)))
    stored = Wire(at=at).wire()

    assert stored == {"at": "2026-11-23T06:00:01Z"}
    assert Wire.model_validate(stored).at == datetime(2026, 11, 23, 6, 0, 1, tzinfo=UTC)
    assert Wire.model_validate(stored).wire() == stored


@pytest.mark.parametrize(
    "value, text",
    [(1.23456789, "1.23457"), (0.0002, "0.0002"), (1e-9, "1e-09"), (14021.0, "14021"),
     (3e9, "3e+09")],
)  # fmt: skip
def test_numbers_of_status_are_short(value: float, text: str) -> None:
    assert decimal_string(value) == text
    assert float(decimal_string(value)) == pytest.approx(value, rel=1e-5)
