"""What DeepSpeed is told of offload and of the size of its buckets."""

from __future__ import annotations

from typing import Any

import pytest
from unit.trainer.train.tiny import run_config

from finetune_trainer.config import Offload, RunConfig
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.zero_config import deepspeed_config

TRAINING = RunConfig.model_validate(run_config()).training
PINNED = {"device": "cpu", "pin_memory": True}


def zero(stage: int, **offload: Any) -> dict[str, Any]:
    config = deepspeed_config(TRAINING, stage, "BF16", trainable=10, offload=Offload(**offload))
    assert config["zero_force_ds_cpu_optimizer"] is False, "torch's optimizer is kept"
    found: dict[str, Any] = config["zero_optimization"]
    return found


def test_each_part_is_offloaded_by_itself_to_pinned_memory() -> None:
    assert not {"offload_optimizer", "offload_param"} & zero(3).keys()
    assert zero(2, optimizer="CPU")["offload_optimizer"] == PINNED
    parameters = zero(3, parameters="CPU")
    assert parameters["offload_param"] == PINNED and "offload_optimizer" not in parameters


@pytest.mark.parametrize(
    ("stage", "offload", "field"),
    [
        (0, {"optimizer": "CPU"}, "spec.deepspeed.offloadOptimizer"),
        (2, {"parameters": "CPU"}, "spec.deepspeed.offloadParameters"),
    ],
)
def test_what_deepspeed_would_ignore_is_refused(
    stage: int, offload: dict[str, str], field: str
) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        zero(stage, **offload)


def test_buckets_are_even_and_have_a_largest_size() -> None:
    for trainable, elements in ((1001, 1002), (10**9, 50_000_000)):
        config = deepspeed_config(TRAINING, 2, "FP32", trainable=trainable)["zero_optimization"]
        assert (config["reduce_bucket_size"], config["allgather_bucket_size"]) == (elements,) * 2
