"""A layer and its adapter in one piece equal peft's own layer: outputs, gradients, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer.fast import lora
from finetune_trainer.fast.lora import LoraLinear


class Two(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20, bias=bias)
        self.second = nn.Linear(20, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def adapted(*, bias: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **settings)
    model = get_peft_model(Two(bias), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # zero at first, and then A has no gradient
    return model.train()


def learnt(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"out": out.detach(), "x": x.grad, **gradients}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rslora", [False, True])
def test_it_equals_peft(bias: bool, dropout: float, rslora: bool) -> None:
    settings = {"lora_dropout": dropout, "use_rslora": rslora}
    x = torch.randn(3, 7, 12)
    expected = learnt(adapted(bias=bias, **settings), x)
    model = adapted(bias=bias, **settings)
    assert lora.attach(model) == 2
    found = learnt(model, x)
    assert found.keys() == expected.keys()
    assert len(found) == 6
    for name, value in expected.items():
        tolerance = {"rtol": 1e-5, "atol": 1e-5 * float(value.abs().max())}
        torch.testing.assert_close(found[name], value, msg=name, **tolerance)


def test_the_derivative_is_that_of_the_function() -> None:
    torch.manual_seed(0)
    x, w, a, b = (torch.randn(s, dtype=torch.float64) for s in ((5, 4), (3, 4), (2, 4), (3, 2)))
    kept = torch.rand(5, 4) < 0.7
    for each in (x, a, b):
        each.requires_grad_()
    for mask in (None, kept):
        assert torch.autograd.gradcheck(
            lambda x, a, b, mask=mask: lora._Adapted.apply(x, w, None, a, b, mask, 1.5, 0.7),
            (x, a, b),
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_backward_pass_keeps_x_and_little_else(dropout: float) -> None:
    model = adapted(lora_dropout=dropout)
    assert lora.attach(model) == 2
    kept: dict[int, torch.Tensor] = {}
    x = torch.randn(64, 12)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.first(x)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    made = [tensor for place, tensor in kept.items() if place not in weights]
    sizes = sorted(tensor.nbytes for tensor in made)
    assert sizes == sorted([x.nbytes, 64 * 4 * 4, *([64 * 12] if dropout else [])])


def test_no_gradient_is_made_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the frozen weight, nor of an input without a gradient."""
    model = adapted()
    assert lora.attach(model) == 2
    made: list[tuple[int, ...]] = []
    times = lora.times

    def watched(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        product = times(x, other)
        made.append(tuple(product.shape))
        return product

    monkeypatch.setattr(lora, "times", watched)
    out = model.first(torch.randn(5, 12))
    made.clear()
    out.sum().backward()
    assert made == [(5, 4), (4, 12), (20, 4)], "x A's, A's and B's"
    assert all(p.grad is None for name, p in model.named_parameters() if "base_layer" in name)


def test_peft_goes_on_as_before_where_the_layer_is_not_plain() -> None:
    model = adapted()
    assert lora.attach(model) == 2
    x = torch.randn(3, 12)
    with torch.no_grad():
        own = model(x)
        with model.disable_adapter():
            without = model(x)
        assert not torch.allclose(own, without)
        torch.manual_seed(0)
        torch.testing.assert_close(without, Two(bias=False)(x))
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(x), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_stay_peft_s(settings: dict[str, Any]) -> None:
    model = adapted(bias=True, **settings)
    assert lora.attach(model) == 0


def test_another_type_of_number_is_peft_s() -> None:
    model = adapted()
    expected = adapted().to(torch.bfloat16)
    assert lora.attach(model) == 2
    model.get_base_model().to(torch.bfloat16)
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.lora_A.float()
            layer.lora_B.float()
    x = torch.randn(3, 12, dtype=torch.bfloat16)
    torch.testing.assert_close(model(x), expected(x), rtol=0.1, atol=0.1)


def test_names_and_files_stay_the_same(tmp_path: Any) -> None:
    plain, fast = (get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
                   for _ in range(2))  # fmt: skip
    assert lora.attach(fast) == 14
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
