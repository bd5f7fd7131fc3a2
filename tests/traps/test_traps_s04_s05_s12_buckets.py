"""What DeepSpeed would round or allocate in silence: sums in 16 bits, buckets of 5e8 elements.

Exact, although the model computes in 16 bits: the same micro-batch has the same gradient each time,
so what a window of 64 of them, or of two on two ranks, must give is known to the last bits of fp32.
"""

from __future__ import annotations

from typing import Any

import pytest
from parity.test_parity import relative_norm
from traps.ranks import buckets, windows
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole

pytestmark = pytest.mark.gang

REPEATED = 64
ROUNDED = 2**-10
"""Of one rounding to the 8 bits of bf16, at least; fp32 rounds to 24."""
CASES = [(stage, "BF16", lora) for stage in range(4) for lora in (False, True)] + [
    (2, "FP16", False)
]


def job(stage: int, precision: str, *, lora: bool) -> Job:
    training = {"precision": precision, "maxGradNorm": 0, "optimizer": {"type": "SGD"}}
    method = {"lora": {"rank": 4, "alpha": 8}} if lora else {}
    return Job([[9], [5, 3]], config={"zeroStage": stage, "method": method, "training": training})


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"zero{case[0]}-{case[1]}-{case[2]}")
def gradients(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of the two micro-batches by themselves, of one 64 times, and of one on each rank."""
    stage, precision, lora = request.param
    rows = {"first": ([0], [0]), "second": ([1], [1]), "each": ([0], [1])}
    rows["repeated"] = ([0] * REPEATED,) * 2
    results = run_gang(windows, 2, job(stage, precision, lora=lora), rows)
    return {name: whole(results, name) for name in rows}


def test_trap_s04_gradients_add_up_in_fp32(gradients: dict[str, Any]) -> None:
    once = gradients["first"]
    summed = {name: total / REPEATED for name, total in gradients["repeated"].items()}
    assert relative_norm(summed, once) <= 1e-6
    assert all(values.any() for name, values in once.items() if "lora_A" not in name)
    sums = {name: values.clone() for name, values in once.items()}
    for _ in range(REPEATED - 1):  # what the trap would have given
        sums = {name: (sums[name].bfloat16() + once[name].bfloat16()).float() for name in once}
    trapped = {name: total / REPEATED for name, total in sums.items()}
    assert relative_norm(trapped, once) > ROUNDED


def test_trap_s05_gradients_travel_in_fp32(gradients: dict[str, Any]) -> None:
    first, second = gradients["first"], gradients["second"]
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    assert relative_norm(gradients["each"], mean) <= 1e-6
    rounded = {name: values.bfloat16().float() for name, values in mean.items()}
    assert relative_norm(rounded, mean) > ROUNDED, "the trap would show"


@pytest.mark.parametrize("precision", ["FP32", "BF16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_trap_s12_a_small_adapter_has_small_buffers(stage: int, precision: str) -> None:
    """The system itself refuses memory to an engine that takes more than its weights need."""
    run_gang(buckets, 2, job(stage, precision, lora=True))
