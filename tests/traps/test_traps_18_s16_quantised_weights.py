"""Weights stored in a few bits can neither be partitioned by ZeRO-3 nor trained as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import make_spec
from pydantic import ValidationError
from tiny_models import save_tiny_model
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.errors import ModelLoad
from finetune_trainer.prepare import stage


def test_trap_18_there_is_no_quantised_method_that_could_meet_zero_3() -> None:
    for method in ({"qlora": {}}, {"lora": {"loadIn4Bit": True}}):
        with pytest.raises(ValidationError, match=r"method\.(qlora|lora)"):
            FineTuneJobSpec.model_validate(make_spec(method=method, training={"zeroStage": 3}))


def test_trap_18_and_s16_a_quantised_model_is_refused_before_its_weights_are_read(
    tmp_path: Path,
) -> None:
    model = save_tiny_model(tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (model / "config.json").write_text(json.dumps(settings | {"quantization_config": quantised}))
    with pytest.raises(ModelLoad, match=r"spec\.model\.uri: the weights are quantised \(bitsand"):
        stage.run(config(model, write(tmp_path / "a.jsonl", [chat(0)])), tmp_path / "ws")
