"""run.json: what the operator writes is what the trainer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cases import SAMPLES
from builders import make_plan, make_spec

from finetune_operator import run_config as operator_side
from finetune_operator.errors import InvalidSpec
from finetune_trainer import config as trainer_side
from finetune_trainer.config import ConfigError, RunConfig, load_run_config

SAMPLE_FILES = Path(__file__).parents[1] / "samples"
SPECS: dict[str, dict[str, Any]] = {
    "small": make_spec(),
    "full fine-tuning": make_spec(
        method={"lora": None, "full": {}}, output={"formats": ["Merged"]}
    ),
    "hub model": make_spec(model={"uri": "hf://team/model", "revision": "v1"}),
    "gguf file": make_spec(model={"uri": "image://registry/model:1//m", "file": "m.gguf"}),
    "data by https": make_spec(
        data={"train": [{"name": "a", "uri": "https://example.test/a.jsonl"}]}
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
    spec = yaml.safe_load((SAMPLE_FILES / f"{name}.yaml").read_text())["spec"]
    try:
        plan = make_plan(spec)
    except InvalidSpec as error:
        pytest.fail(f"no plan for the sample: {error}")
    RunConfig.model_validate(plan.run_config)


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
