"""Weights in a few bits cannot be partitioned by ZeRO-3, nor taken as they come from a source."""

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


def test_trap_18_the_quantised_method_never_meets_zero_3() -> None:
    def wish(stage: int | None) -> FineTuneJobSpec:
        return FineTuneJobSpec.model_validate(
            make_spec(
                method={"lora": {"quantization": "NF4"}},
                workers={"ranksPerWorker": None, "gpusPerWorker": 2},
                deepspeed={"zeroStage": stage},
            )
        )

    with pytest.raises(ValidationError, match="ZeRO 3 partitions weights while they are loaded"):
        wish(3)
    for allowed in (None, 0, 1, 2):
        assert wish(allowed).method.quantized


def test_trap_18_and_s16_a_quantised_model_is_refused_before_its_weights_are_read(
    tmp_path: Path,
) -> None:
    model = save_tiny_model(tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (model / "config.json").write_text(json.dumps(settings | {"quantization_config": quantised}))
    with pytest.raises(ModelLoad, match=r"spec\.model\.uri: the weights are quantised \(bitsand"):
        stage.run(config(model, write(tmp_path / "a.jsonl", [chat(0)])), tmp_path / "ws")
