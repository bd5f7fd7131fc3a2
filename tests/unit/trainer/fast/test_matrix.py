"""Products by oneDNN, and linear layers that use it, equal torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from unit.trainer.fast import test_lora
from unit.trainer.fast.test_attention import ROWS, batch, learnt, same
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.fast import accelerate, attention, fused, linear, lora, matrix
from finetune_trainer.fast import head as heads
from finetune_trainer.fast.head import head_of
from finetune_trainer.loss import loss_sum


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The machine is one where it is faster, whatever it is, and every product is worth it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    made: list[tuple[int, ...]] = []
    multiply = torch.ops.mkldnn._linear_pointwise

    def counted(x: torch.Tensor, other: torch.Tensor, *rest: Any) -> torch.Tensor:
        made.append((*x.shape, len(other)))
        return multiply(x, other, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    monkeypatch.setattr(matrix, "faster", lambda: True)
    monkeypatch.setattr(matrix, "LEAST", 1)
    yield made


@pytest.mark.parametrize("shape", [(64, 48, 32), (1, 7, 3), (33, 1, 5)])
def test_products_of_any_layout(calls: list[Any], shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, other = torch.randn(m, k), torch.randn(n, k)
    for one, two in ((x, other), (x.t().contiguous().t(), other), (x, other.t().contiguous().t())):
        torch.testing.assert_close(matrix.times(one, two), x @ other.t(), rtol=1e-5, atol=1e-5)
    assert len(calls) == 3


def test_rare_products_are_rounded_up_so_that_they_need_few_kernels(calls: list[Any]) -> None:
    other = torch.randn(5, 3)
    for rows in range(1, 600):
        x = torch.randn(rows, 3)
        found = matrix.times(x, other, rare=True)
        torch.testing.assert_close(found, x @ other.t(), rtol=1e-5, atol=1e-5)
        assert rows <= calls[-1][0] < max(rows * 1.25, rows + matrix.ROUND)
    assert len(set(calls)) <= 20


def test_small_products_and_other_types_stay_torch_s(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(4, 4)
    matrix.times(x.bfloat16(), x.bfloat16())
    matrix.times(x.double(), x.double())
    monkeypatch.setattr(matrix, "LEAST", 65)
    matrix.times(x, x)
    assert calls == []


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_has_the_gradients_of_torch_s(calls: list[Any], bias: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 20, bias=bias).requires_grad_(not frozen)
    x = torch.randn(2, 5, 12, requires_grad=True)
    found = []
    for kind in (nn.Linear, linear.FastLinear):
        layer.__class__ = kind
        out = layer(x)
        inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert len(calls) == (2 if frozen else 3)


def test_adapters_and_the_loss_use_it(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CHUNK_BYTES, "cpu", 64 * 10 * 4)
    test_lora.test_it_equals_peft(bias=True, dropout=0.3, rslora=False)
    adapted = len(calls)
    assert adapted > 0
    each = tiny_llama()
    loss_sum(each, batch(ROWS), logits_to_keep=True, head=head_of(each)).backward()
    targets = int((batch(ROWS).position_ids > 0).sum())
    whole = [(10, 32, 64), (10, 64, 32)] * (targets // 10) + [(16, 32, 64), (16, 64, 32)]
    assert targets % 10, "the rest has a shape that hardly comes again"
    assert calls[adapted:] == whole


def test_a_whole_model_learns_the_same(calls: list[Any]) -> None:
    each, packed = tiny_llama(), batch(ROWS)
    loss, gradients = learnt(each, packed)
    assert accelerate(each, stage=2, on_gpu=False), "it compiles for each new shape"
    assert type(each.lm_head) is nn.Linear
    assert sum(isinstance(layer, linear.FastLinear) for layer in each.modules()) == 14
    again, found = learnt(each, packed)
    assert again == pytest.approx(loss, rel=1e-6)
    same(found, gradients)


def test_layers_inside_adapted_ones_are_theirs(calls: list[Any]) -> None:
    model = test_lora.adapted()
    model.get_output_embeddings = lambda: None
    assert lora.attach(model) == 2
    assert linear.attach(model) == 0


def test_partitioned_weights_and_gpus_are_left_alone(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for stage, on_gpu in ((3, False), (2, True)):
        each = tiny_llama()
        assert not accelerate(each, stage=stage, on_gpu=on_gpu)
        assert not any(isinstance(layer, linear.FastLinear) for layer in each.modules())
        wanted = attention.ON_GPU if on_gpu else attention.NAME
        assert each.config._attn_implementation == wanted


def test_gpus_for_which_there_are_no_kernels_use_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention refuses a T4: every step of a job in FP16 would fail."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    each = tiny_llama()
    accelerate(each, stage=2, on_gpu=True)
    assert each.config._attn_implementation == attention.NAME
    assert not any(isinstance(layer, fused.FusedNorm) for layer in each.modules())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t: avx512f\n", True),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", False),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", False),
    ],
)
def test_it_is_for_processors_that_mkl_does_not_know(
    tmp_path: Path, text: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    libraries = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert matrix.faster(tmp_path / "cpuinfo") == (expected and libraries)
    assert not matrix.faster(tmp_path / "none")
