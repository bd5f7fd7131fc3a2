"""The plan beside what an H200 held: torch's reserved memory at its peak, and the GPU's context.

Measured by ``python -m benchmarks gpu``; see "GPU" in benchmarks/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_operator.memory_ladder import Fit
from finetune_operator.memory_plan import Setup, Shape, predict

WORST = 0.15
SMALL = Shape(
    parameters=1_235_814_400,
    trainable=1_235_814_400,
    largest=128_256 * 2048,
    layers=16,
    hidden=2048,
    attention=2048,
    key_value=512,
    intermediate=8192,
    vocabulary=128_256,
    gated=True,
    rms_norm=True,
    chunked_loss=True,
    by_sample=True,
    fused=True,
)
"""Llama 3.2 1B, all of it trained."""
BIG = replace(
    SMALL,
    parameters=8_030_261_248,
    trainable=41_943_040,
    largest=16 * 14_336,
    layers=32,
    hidden=4096,
    attention=4096,
    key_value=1024,
    intermediate=14_336,
    adapters=224,
)
"""Llama 3 8B with adapters of rank 16."""


def rows(micro: int, stage: int = 0, *, checkpointing: bool = False) -> Fit:
    return Fit(
        micro=micro,
        accumulation=4,
        activation_checkpointing=checkpointing,
        zero_stage=stage,
        world_size=1,
        on_gpu=True,
    )


@pytest.mark.parametrize(
    ("shape", "rank", "fit", "measured"),
    [
        (BIG, 16, rows(2), 57.4e9),
        (SMALL, 0, rows(4), 48.3e9),
        (SMALL, 0, rows(4, checkpointing=True), 30.3e9),
        (SMALL, 0, rows(4, stage=2), 48.3e9),
        (SMALL, 0, rows(4, stage=3), 81.7e9),
    ],
    ids=["8B, LoRA", "1B", "1B, checkpointing", "1B, ZeRO 2", "1B, ZeRO 3"],
)
def test_the_plan_is_near_what_was_measured(
    shape: Shape, rank: int, fit: Fit, measured: float
) -> None:
    setup = Setup("BF16", "GPU", row_tokens=4096, row_targets=4095, lora_rank=rank)
    assert abs(predict(shape, setup, fit).total / measured - 1) < WORST
