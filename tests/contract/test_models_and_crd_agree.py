"""The models refuse what the API server refuses; the table of wrong objects covers all rules."""

from __future__ import annotations

import pytest
from api_cases import (
    CHANGES_REFUSED,
    SAMPLES,
    WrongObject,
    edited,
    full_status,
    sample,
    wrong_objects,
)
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from finetune_operator.api.schema import DecimalRange, Matches, Rule, SpecModel
from finetune_operator.api.spec import MUTABLE, FineTuneJobSpec
from finetune_operator.api.types import FineTuneJob, FineTuneJobStatus

ONLY_THE_API_SERVER_KNOWS = {
    "two sources of one name",
    "a form of output twice",
    "two bounds of one metric",
}
"""Keys of lists: the models take them as they come."""
WRONG = [
    pytest.param(wrong, id=wrong.name)
    for wrong in wrong_objects()
    if wrong.name not in ONLY_THE_API_SERVER_KNOWS
]


WORDS_OF_THE_API_SERVER = (
    "Required value",
    "Unsupported value",
    "must be of type",
    "should match",
    "should have at least",
    "every key must be a label name",
)
"""How it tells of what is in the schema itself; the models find it too, in pydantic's words."""


@pytest.mark.parametrize("wrong", WRONG)
def test_the_models_refuse_it_too(wrong: WrongObject) -> None:
    with pytest.raises(ValidationError) as told:
        FineTuneJob.model_validate(wrong.manifest)

    faults = [(_path(fault["loc"]), fault["msg"]) for fault in told.value.errors()]
    assert any(_is_told(wrong, field, message) for field, message in faults), faults


def _path(steps: tuple[int | str, ...]) -> str:
    """a, b, 0, c → ``a.b[0].c``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]


def _is_told(wrong: WrongObject, field: str, message: str) -> bool:
    """A rule of several fields is told by the models at the object that holds these."""
    if wrong.says.startswith(WORDS_OF_THE_API_SERVER):
        return field.startswith(wrong.field)
    near = field.startswith(wrong.field) or wrong.field.startswith(field)
    return near and wrong.says in message


@pytest.mark.parametrize("name", SAMPLES)
def test_the_models_accept_the_sample(name: str) -> None:
    FineTuneJob.model_validate(sample(name))


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_of_the_sample_is_lost(name: str) -> None:
    manifest = sample(name)

    assert _is_part(manifest["spec"], FineTuneJob.model_validate(manifest).wire()["spec"])


def _is_part(given: object, stored: object) -> bool:
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(
            key in stored and _is_part(value, stored[key]) for key, value in given.items()
        )
    if isinstance(given, list):
        return isinstance(stored, list) and all(map(_is_part, given, stored))
    return given == stored


def test_a_wish_that_nobody_knows_is_refused_by_the_operator() -> None:
    """An operator older than the CRD must not train without what the user asked for."""
    with pytest.raises(ValidationError, match="learningrate"):
        FineTuneJob.model_validate(edited(sample("minimal"), {"spec.training.learningrate": "1"}))


def test_a_status_of_a_newer_operator_can_be_read() -> None:
    manifest = {**sample("minimal"), "status": {"observedGeneration": 1, "novelty": {"a": 1}}}

    assert FineTuneJob.model_validate(manifest).status.observed_generation == 1


def test_a_status_comes_back_as_it_was_written() -> None:
    """Else the operator would see a change in its own echo, and write for ever."""
    assert FineTuneJobStatus.model_validate(full_status()).wire() == full_status()


def _spec_models(model: type[BaseModel]) -> set[type[SpecModel]]:
    found: set[type[SpecModel]] = set()
    queue = [model]
    while queue:
        current = queue.pop()
        if not issubclass(current, SpecModel) or current in found:
            continue
        found.add(current)
        for field in current.model_fields.values():
            queue += _models_in(field.annotation)
    return found


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _is_transition(rule: Rule) -> bool:
    return "oldSelf" in rule.cel


RULES = [
    (model, rule)
    for model in sorted(_spec_models(FineTuneJobSpec), key=lambda model: model.__name__)
    for rule in model.rules
]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id=f"{model.__name__}: {rule.message[:50]}")
        for model, rule in RULES
        if not _is_transition(rule)
    ],
)
def test_some_wrong_object_breaks_the_rule(rule: Rule) -> None:
    assert any(wrong.says in rule.message for wrong in wrong_objects())
    assert rule.check is not None, "the models must judge it too"


def test_some_change_breaks_every_immutable_part() -> None:
    parts = {to_camel(name) for name in FineTuneJobSpec.model_fields if name not in MUTABLE}

    assert {part for part, _ in CHANGES_REFUSED.values()} == parts
    assert sum(_is_transition(rule) for _, rule in RULES) == len(parts)


def _string_rules() -> list[tuple[str, DecimalRange | Matches]]:
    return [
        (f"{model.__name__}.{name}", mark)
        for model in _spec_models(FineTuneJobSpec)
        for name, field in model.model_fields.items()
        for mark in _marks(field.annotation, field.metadata)
    ]


def _marks(annotation: object, metadata: list[object]) -> list[DecimalRange | Matches]:
    inner = [
        mark
        for part in getattr(annotation, "__args__", ())
        for mark in _marks(part, list(getattr(part, "__metadata__", ())))
    ]
    return [m for m in metadata if isinstance(m, DecimalRange | Matches)] + inner


@pytest.mark.parametrize(
    "mark", [pytest.param(mark, id=name) for name, mark in sorted(_string_rules(), key=str)]
)
def test_some_wrong_object_breaks_the_form(mark: DecimalRange | Matches) -> None:
    assert any(wrong.says in mark.message for wrong in wrong_objects())
