"""Sixteen bits: close to fp32 at every stage, and never quietly wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.reference import train_plainly
from parity.test_methods import job as sgd_job
from parity.test_methods import lora
from parity.test_parity import relative_norm
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import make_workspace, row_lengths, tiny_llama
from unit.trainer.train.workers import train, train_from_folder, train_in_fp16

from finetune_trainer.zero_config import DTYPES, Precision


def job(precision: str, stage: int, *, method: dict[str, Any] | None = None) -> Job:
    return Job(
        lengths=row_lengths(3, 17),
        config={
            "zeroStage": stage,
            "method": method or {},
            "training": {
                "steps": 8,
                "microBatchSize": 2,
                "accumulation": 4,
                "learningRate": 0.003,
                "precision": precision,
            },
        },
    )


def losses(results: list[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in results[0]["steps"]]


@pytest.fixture(scope="module")
def exact() -> list[float]:
    return losses(run_gang(train, 2, job("FP32", 2)))


@pytest.mark.parametrize("stage", range(4))
def test_bf16_stays_close_to_fp32(stage: int, exact: list[float]) -> None:
    results = run_gang(train, 2, job("BF16", stage))
    assert losses(results) == pytest.approx(exact, rel=2e-3)
    assert losses(results) != exact, "it did compute in another precision"
    assert results[0]["state"]["skipped_steps"] == 0


@pytest.mark.parametrize("stage", range(4))
def test_fp16_finds_its_loss_scale_and_stays_close_to_fp32(stage: int, exact: list[float]) -> None:
    result = run_gang(train_in_fp16, 2, job("FP16", stage))[0]
    skipped = result["state"]["skipped_steps"]
    assert result["scales"][0] == 2**16
    assert result["scales"][-1] == 2 ** (16 - skipped), "each overflow halves it, once"
    assert result["state"]["bad_in_a_row"] == 0, "searching the scale is no failure"
    # A skipped step leaves the run a step behind; until then it follows fp32.
    first = next(
        (n for n, step in enumerate(result["steps"]) if step["gradNorm"] == float("inf")), 8
    )
    followed = [step["loss"] for step in result["steps"][: first + 1]]
    assert followed == pytest.approx(exact[: first + 1], rel=2e-3)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("precision", ["BF16", "FP16"])
def test_adapters_in_16_bits_equal_plain_torch_up_to_rounding(
    precision: Precision, stage: int
) -> None:
    """Against fp32 from the same rounded weights: what differs is rounding on the way alone.

    A rounding is off by a share of u at most: 2^-9 in bf16, 2^-12 in fp16. Each of the tens of them
    between the ids and a gradient makes it as much as that uncertain, and errors of different signs
    cancel out in its sum over tokens: a few u are left, the same number of them in both formats,
    and less in the loss, which is one mean over all tokens. The matrices A move by less than half
    of the distance between two numbers of 16 bits in a step: that they end where the sum of the
    steps leads is the work of masters in fp32.
    """
    kind = DTYPES[precision]
    u = torch.finfo(kind).eps / 2
    small = sgd_job(stage, lora(), precision=precision, learningRate=0.02)
    start: dict[str, torch.Tensor] = {}

    def rounded(model: Any) -> None:
        for name, weight in model.named_parameters():
            weight.data = weight.data.to(kind).float()
            if weight.requires_grad:
                start[name] = weight.data.clone().view(-1)

    expected = train_plainly(small, 2, rounded)
    results: list[dict[str, Any]] = (
        run_gang(train_in_fp16, 2, small, 1024.0)
        if precision == "FP16"
        else run_gang(train, 2, small)
    )
    assert losses(results) == pytest.approx(expected["losses"], rel=u / 8)
    off = relative_norm(whole(results, "gradients"), expected["gradients"])
    assert u / 4 < off <= 4 * u, "more than nothing: it did compute in 16 bits"
    masters = whole(results, "masters")
    for matrix in ("lora_A", "lora_B"):
        names = [name for name in start if matrix in name]
        moved = {name: masters[name] - start[name] for name in names}
        wanted = {name: expected["masters"][name] - start[name] for name in names}
        assert relative_norm(moved, wanted) <= 4 * u
        if matrix == "lora_A":
            steps = len(expected["losses"])
            stuck = {n: steps * ((start[n] + wanted[n] / steps).to(kind) - start[n]) for n in names}
            assert relative_norm(stuck, wanted) > 0.1, "masters of 16 bits would show"


def test_a_precision_that_the_device_lacks_is_named() -> None:
    with pytest.raises(AssertionError, match=r"ConfigInvalid: .*zeroStage 2, FP16"):
        run_gang(train, 1, job("FP16", 2))


@pytest.mark.parametrize("method", [{}, {"lora": {"rank": 4, "alpha": 8}}])
def test_trap_33_zero_3_loads_the_model_in_parts_and_trains_the_same(
    tmp_path: Path, method: dict[str, Any]
) -> None:
    told = {}
    for stage in (2, 3):
        workspace = make_workspace(tmp_path / str(stage))
        told[stage] = run_gang(train_from_folder, 2, job("FP32", stage, method=method), workspace)
    whole = sum(p.numel() for p in tiny_llama().parameters())
    assert told[2][0]["elements_after_loading"] == whole
    assert told[3][0]["elements_after_loading"] == 0, "each rank holds its part elsewhere"
    assert losses(told[3]) == pytest.approx(losses(told[2]), rel=1e-6)
