"""run.json: what the operator writes is what the trainer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from api_cases import SAMPLES, sample
from builders import make_plan, make_spec
from pydantic import BaseModel

from finetune_operator import run_config as operator_side
from finetune_operator.errors import InvalidSpec
from finetune_operator.run_defaults import DEFAULTS, Part, without_defaults
from finetune_trainer import config as trainer_side
from finetune_trainer.config import ConfigError, RunConfig, load_run_config

SPECS: dict[str, dict[str, Any]] = {
    "small": make_spec(),
    "full fine-tuning": make_spec(
        method={"lora": None, "full": {}}, output={"formats": ["Merged"]}
    ),
    "hub model": make_spec(model={"uri": "hf://team/model", "revision": "v1"}),
    "gguf file": make_spec(model={"uri": "image://registry/model:1//m", "file": "m.gguf"}),
    "gguf result": make_spec(output={"formats": ["GGUF"], "gguf": {"type": "BF16"}}),
    "data by https": make_spec(
        data={"train": [{"name": "a", "uri": "https://example.test/a.jsonl"}]}
    ),
    "data of a hub": make_spec(
        data={
            "train": [
                {"name": "a", "uri": "hf://datasets/o/n@v1", "config": "en", "split": "train_sft"}
            ]
        }
    ),
    "bucket": make_spec(
        model={"uri": "s3://models/small", "s3": {"endpoint": "http://s3.test:9000"}},
        data={"train": [{"name": "a", "uri": "s3://rows/a/", "s3": {"secretRef": {"name": "k"}}}]},
        output={
            "destinations": [
                {
                    "name": "b",
                    "s3": {"uri": "s3://out/v1", "region": "eu", "secretRef": {"name": "k"}},
                }
            ]
        },
    ),
    "weights": make_spec(
        data={
            "train": [
                {"name": "a", "uri": "pvc://c/a", "weight": "0.7"},
                {"name": "b", "uri": "pvc://c/b", "weight": "3e-1"},
            ]
        }
    ),
    "epochs": make_spec(training={"steps": None, "epochs": "1.5"}),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_trainer_reads_what_the_operator_writes(spec: dict[str, Any]) -> None:
    written = make_plan(spec).run_config
    read = RunConfig.model_validate(json.loads(json.dumps(written)))
    kept = read.model_dump(by_alias=True, mode="json", exclude_unset=True)
    assert _sorted(kept) == _sorted(written)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_of_the_api_becomes_a_run_json_that_is_read(name: str) -> None:
    spec = sample(name)["spec"]
    try:
        plan = make_plan(spec)
    except InvalidSpec as error:
        pytest.fail(f"no plan for the sample: {error}")
    RunConfig.model_validate(plan.run_config)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_left_out_is_what_the_trainer_takes_anyway(name: str) -> None:
    spec = sample(name)["spec"]
    whole = make_plan(spec).run_config
    assert RunConfig.model_validate(without_defaults(whole)) == RunConfig.model_validate(whole)


def test_a_small_job_is_told_in_the_keys_that_it_needs() -> None:
    """A key that is always written would end running jobs of earlier images at an upgrade."""
    small = without_defaults(make_plan(make_spec()).run_config)
    assert set(small) == {"job", "model", "data", "method", "training", "workers", "zeroStage"}


def test_every_default_of_the_trainer_is_known_to_the_operator() -> None:
    assert defaults_of(RunConfig) == plain(DEFAULTS)


def defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    """Defaults by key, as deep as they go. None is left out: run.json says it by absence."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if inner:
            below = defaults_of(inner)
            many = get_origin(field.annotation) is tuple
            always = isinstance(default, inner)
            if below or always:
                found[field.alias or name] = [below] if many else (below, not always)
            elif many and not field.is_required():
                found[field.alias or name] = []
        elif default is not None:
            found[field.alias or name] = list(default) if isinstance(default, tuple) else default
    return found


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: itself, or None, or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def plain(part: Part) -> dict[str, Any]:
    """The same of the operator's table."""
    found: dict[str, Any] = {}
    for name, default in part.keys.items():
        match default:
            case Part():
                found[name] = (plain(default), default.asked_for)
            case [Part() as each]:
                found[name] = [plain(each)]
            case _:
                found[name] = default
    return found


def test_sources_carry_the_field_that_messages_name() -> None:
    read = RunConfig.model_validate(make_plan(make_spec()).run_config)
    assert read.data.train[0].field == "spec.data.train[0]"


def test_the_batch_is_the_one_that_was_asked_for() -> None:
    read = RunConfig.model_validate(make_plan(make_spec()).run_config)
    assert read.global_batch_size == make_spec()["training"]["globalBatchSize"]


def test_both_sides_know_the_same_metrics_port() -> None:
    assert operator_side.METRICS_PORT == trainer_side.METRICS_PORT


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (("colour",), "colour: Extra inputs are not permitted"),
        (("training", "colour"), "training.colour: Extra inputs are not permitted"),
        (("data", "train", 0, "colour"), "data.train.0.colour: Extra inputs are not permitted"),
    ],
)
def test_a_key_the_trainer_does_not_know_is_named(
    tmp_path: Path, path: tuple[str | int, ...], says: str
) -> None:
    content = json.loads(json.dumps(make_plan(make_spec()).run_config))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "red"
    file = tmp_path / "run.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load_run_config(file)
    assert says in str(caught.value)


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
