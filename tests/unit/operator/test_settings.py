"""Settings come from the environment; logs are JSON lines with the job's key."""

from __future__ import annotations

import json
import logging

import pytest
from api_cases import ROOT
from pydantic.alias_generators import to_camel

from finetune_operator.logs import JsonLines
from finetune_operator.settings import LEAST, LOG_LEVELS, BadSetting, Settings, load_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_every_field_is_a_variable() -> None:
    settings = load_settings(
        {
            "FINETUNE_TRAINER_IMAGE": "example.test/t:1",
            "FINETUNE_WORKERS": "3",
            "FINETUNE_PROGRESS_SECONDS": "2.5",
            "FINETUNE_NAMESPACES": "a, b,",
            "FINETUNE_HF_ENDPOINT": "http://hub.test",
            "FINETUNE_TRAINER_ENV": "A=1 B=x=y",
        }
    )
    assert (settings.trainer_image, settings.workers) == ("example.test/t:1", 3)
    assert settings.progress_seconds == 2.5
    assert settings.watched_namespaces == ("a", "b")
    assert settings.trainer_environment == (
        ("HF_ENDPOINT", "http://hub.test"),
        ("A", "1"),
        ("B", "x=y"),
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FINETUNE_WORKERS", "many"),
        ("FINETUNE_WORKERS", "0"),
        ("FINETUNE_RESYNC_SECONDS", "soon"),
        ("FINETUNE_RESYNC_SECONDS", "nan"),
        ("FINETUNE_PROGRESS_SECONDS", "-1"),
        ("FINETUNE_LOG_LEVEL", "verbose"),
        ("FINETUNE_TRAINER_ENV", "NOVALUE"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    with pytest.raises(BadSetting, match=variable):
        load_settings({variable: value})


def test_the_bounds_are_those_of_the_chart() -> None:
    schema = json.loads((ROOT / "helm/finetune-operator/values.schema.json").read_text())
    tuning = schema["properties"]["tuning"]["properties"]
    assert {to_camel(name): least for name, least in LEAST.items()} == {
        name: rule["minimum"] for name, rule in tuning.items()
    }
    assert list(LOG_LEVELS) == schema["properties"]["logLevel"]["enum"]


def test_a_log_line_is_json_with_the_jobs_key_and_the_error() -> None:
    record = logging.makeLogRecord(
        {"name": "finetune_operator.x", "levelname": "INFO", "msg": "%s!", "args": ("ünder",)}
    )
    record.job = "team-a/demo"
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["job"], line["level"]) == ("ünder!", "team-a/demo", "info")
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: why" in json.loads(JsonLines().format(record))["error"]
