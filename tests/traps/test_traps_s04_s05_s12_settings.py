"""The settings that DeepSpeed would choose in silence."""

from __future__ import annotations

from typing import Any

import pytest
from unit.trainer.train.tiny import run_config

from finetune_trainer.config import RunConfig
from finetune_trainer.zero_config import deepspeed_config, effective_stage

TRAINING = RunConfig.model_validate(run_config()).training


def settings(precision: Any, trainable: int = 1000) -> dict[str, Any]:
    return deepspeed_config(TRAINING, 2, precision, trainable=trainable)


@pytest.mark.parametrize("precision", ["BF16", "FP16"])
def test_traps_s04_and_s05_gradients_add_up_and_travel_in_fp32(precision: Any) -> None:
    assert settings(precision)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert settings(precision)["communication_data_type"] == "fp32"
    # Stage 0 cannot add up in fp32 what it computes in 16 bits.
    assert effective_stage(0, precision) == 1
    assert effective_stage(0, "FP32") == 0


def test_trap_s12_buckets_are_no_larger_than_what_is_trained() -> None:
    for trainable, elements in ((1001, 1002), (10**9, 50_000_000)):
        zero = settings("FP32", trainable)["zero_optimization"]
        assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (elements, elements)
