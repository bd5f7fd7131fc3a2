"""Variants of LoRA and NEFTune train as their papers' formulas do, written out in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.reference import train_plainly
from parity.test_parity import relative_norm
from torch.nn import functional
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths, tiny_llama
from unit.trainer.train.workers import adapter_losses, train

RANK, ALPHA = 4, 8


def job(stage: int, method: dict[str, Any], **training: Any) -> Job:
    return Job(
        lengths=row_lengths(3, 9),
        first_gradient=True,
        config={
            "zeroStage": stage,
            "method": method,
            "training": {
                "steps": 6,
                "microBatchSize": 2,
                "accumulation": 2,
                "learningRate": 0.1,
                "maxGradNorm": 0.0,
                "optimizer": {"type": "SGD"},
                **training,
            },
        },
    )


def lora(**variant: bool) -> dict[str, Any]:
    return {"lora": {"rank": RANK, "alpha": ALPHA, **variant}}


class Formula:
    """rsLoRA (arXiv:2312.03732): ΔW = α/√r BA. DoRA (arXiv:2402.09353, equation 5 and section 4.3):
    W' = m (W + ΔW) / ‖W + ΔW‖ by outputs, and no gradient flows through the norm."""

    def __init__(self, *, rslora: bool, dora: bool) -> None:
        self.scale = ALPHA / RANK**0.5 if rslora else ALPHA / RANK
        self.dora = dora

    def __call__(self, model: Any) -> None:
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                if self.dora:
                    sizes = layer.base_layer.weight.norm(dim=1)
                    torch.testing.assert_close(self.magnitude(layer).data, sizes)
                layer.forward = lambda x, layer=layer: functional.linear(x, self.weight(layer))

    def weight(self, layer: Any) -> torch.Tensor:
        change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        weight: torch.Tensor = layer.base_layer.weight + self.scale * change
        if not self.dora:
            return weight
        return (self.magnitude(layer) / weight.norm(dim=1).detach())[:, None] * weight

    def magnitude(self, layer: Any) -> torch.nn.Parameter:
        found: torch.nn.Parameter = layer.lora_magnitude_vector["default"].weight
        return found


@pytest.mark.parametrize(
    ("stage", "ranks", "rslora", "dora"),
    [(0, 1, True, False), (2, 2, False, True), (3, 2, True, True)],
)
def test_variants_of_lora_equal_their_formulas(
    stage: int, ranks: int, rslora: bool, dora: bool
) -> None:
    small = job(stage, lora(rslora=rslora, dora=dora))
    expected = train_plainly(small, ranks, Formula(rslora=rslora, dora=dora))
    assert_equal(run_gang(train, ranks, small), expected)


@pytest.mark.parametrize(("stage", "method"), [(0, {}), (3, lora())])
def test_neftune_equals_its_formula_sample_by_sample(stage: int, method: dict[str, Any]) -> None:
    """Packed rows: the noise of a token depends on the length of its own sample."""
    small = job(stage, method, microBatchSize=1, neftuneNoiseAlpha=5)
    expected = train_plainly(small, 1)
    silent = train_plainly(job(stage, method, microBatchSize=1), 1)
    assert abs(expected["losses"][0] - silent["losses"][0]) > 1e-4
    assert_equal(run_gang(train, 1, small), expected)


def assert_equal(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    losses = [step["loss"] for step in results[0]["steps"]]
    assert losses == pytest.approx(expected["losses"], rel=1e-6)
    assert relative_norm(whole(results, "gradients"), expected["gradients"]) <= 1e-6
    masters = whole(results, "masters")
    for name, values in expected["masters"].items():
        assert torch.allclose(masters[name], values, rtol=0, atol=1e-6), name


def test_dora_under_zero_3_sees_whole_weights(tmp_path: Path) -> None:
    """Weights large enough to be partitioned: DeepSpeed keeps smaller ones whole on every rank."""
    tiny_llama(hidden_size=320, intermediate_size=384).save_pretrained(tmp_path / "model")
    small = job(3, lora(dora=True))
    apart = run_gang(adapter_losses, 2, small, tmp_path / "model")
    small.config["zeroStage"] = 0
    (alone,) = run_gang(adapter_losses, 1, small, tmp_path / "model")
    assert apart[0] == pytest.approx(alone, rel=1e-6)
    assert apart[1] == pytest.approx(alone, rel=1e-6)
