"""Weights in 4 bits: sizes and values by hand, and what is quantized, on the CPU."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import bitsandbytes.functional as packed
import pytest
import torch
from architectures.cells import ARCHITECTURES, save_model
from nf4 import bytes_of, unpacked
from peft import get_peft_model
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer import quantization
from finetune_trainer.config import Lora
from finetune_trainer.costs import costs_of, ndim, numel
from finetune_trainer.fast.lora import attach
from finetune_trainer.model import load_model, load_quantized, lora_config
from finetune_trainer.prepare.shape import shape_of, shape_of_job

CPU = torch.device("cpu")
NF4 = Lora(rank=4, quantization="NF4")


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 5), (1, 64), (5, 13), (32, 32), (129, 128), (576, 1536), (1, 16_385)]
)
def test_the_size_is_what_bitsandbytes_makes(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    data, state = packed.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    assert quantization.packed_bytes(weight.numel()) == bytes_of(data, state)


def test_the_size_of_large_weights_by_hand() -> None:
    """Half a byte, one for 64, four for 64 · 256: 0.516 bytes a number; and the tables."""
    assert quantization.packed_bytes(4096 * 14_336) == 29_360_128 + 917_504 + 14_336 + 1092


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_linear_layers_are_quantized_and_the_plan_knows_their_size(
    name: str, tmp_path: Path
) -> None:
    save_model(name, tmp_path)
    plain = load_model(tmp_path, torch.float32)
    shape = shape_of_job({"shape": shape_of(plain), "parameters": 1}, NF4)
    model = load_quantized(tmp_path, torch.float32, CPU)
    layers = quantization.quantized_layers(model)
    assert model.get_output_embeddings() not in layers
    sizes = [numel(layer.weight) for layer in layers]
    assert shape["quantized"] == sum(sizes) > 0
    assert shape["largestQuantized"] == max(sizes)
    bytes_ = [bytes_of(layer.weight.data, layer.weight.quant_state) for layer in layers]
    assert shape["quantizedBytes"] == sum(bytes_)
    whole = sum(weight.numel() for weight in plain.parameters())
    assert sum(numel(weight) for weight in model.parameters()) == whole
    assert costs_of(model) == costs_of(plain)
    adapted = get_peft_model(model, lora_config(NF4))
    found = [layer for layer in adapted.modules() if hasattr(layer, "lora_A")]
    assert {layer.base_layer for layer in found} == set(layers)


def test_without_quantization_the_shape_says_nothing_of_it() -> None:
    shape = shape_of_job({"shape": shape_of(tiny_llama()), "parameters": 1}, Lora(rank=4))
    assert not [key for key in shape if "uantized" in key]


def test_values_are_those_of_the_paper(tmp_path: Path) -> None:
    """Each is one of the 16 quantiles of appendix E, times its block's scale, which is off by what
    8 bits are. Embeddings and norms are untouched."""
    original = tiny_llama()
    original.save_pretrained(tmp_path)
    model: Any = load_quantized(tmp_path, torch.float32, CPU)
    layers = quantization.quantized_layers(model)
    assert len(layers) == 14
    for layer in layers:
        weight = layer.weight
        assert weight.dtype is torch.uint8 and not weight.requires_grad and ndim(weight) == 2
        found = unpacked(weight)
        assert torch.equal(found, quantization.unpack(weight, weight.quant_state))
    before = dict(original.named_parameters())
    layer = model.model.layers[0].mlp.up_proj
    wanted = before["model.layers.0.mlp.up_proj.weight"].detach().view(-1, 64)
    largest = wanted.abs().amax(1, keepdim=True)
    found = unpacked(layer.weight).view(-1, 64)
    # Half the widest gap between quantiles, and the error of the scale.
    assert ((found - wanted).abs() <= largest * (0.152 + 0.03)).all()
    for name, weight in model.named_parameters():
        if weight.dtype is not torch.uint8:
            assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_with_its_unpacked_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    """In evaluation mode, too, and after it, in the job's precision."""
    tiny_llama().save_pretrained(tmp_path)
    model: Any = load_quantized(tmp_path, dtype, CPU)
    layer = model.model.layers[0].mlp.up_proj
    weight = unpacked(layer.weight).to(dtype)
    x = torch.randn(3, 32, dtype=dtype)
    before = layer.weight.data.clone()
    with torch.no_grad():
        scored = layer.eval()(x)
    x.requires_grad_()
    out = layer.train()(x)
    out.float().square().sum().backward()
    assert torch.equal(layer.weight.data, before)
    expected = x.detach().requires_grad_()
    reference = torch.nn.functional.linear(expected, weight)
    reference.float().square().sum().backward()
    tight = {"rtol": 1e-6, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(scored, reference, **tight)
    torch.testing.assert_close(out, reference, **tight)
    torch.testing.assert_close(x.grad, expected.grad, **tight)


def test_casting_a_model_leaves_packed_weights_alone(tmp_path: Path) -> None:
    """As DeepSpeed does it before it trains in 16 bits."""
    tiny_llama().save_pretrained(tmp_path)
    model: Any = load_quantized(tmp_path, torch.bfloat16, CPU)
    adapted: Any = get_peft_model(model, lora_config(NF4))
    layer = quantization.quantized_layers(model)[0]
    before, state = layer.weight.data.clone(), layer.weight.quant_state
    adapted.bfloat16().to(CPU)
    assert torch.equal(layer.weight.data, before) and layer.weight.quant_state is state
    assert state.absmax.dtype is torch.uint8 and state.state2.absmax.dtype is torch.float32
    kinds = {weight.dtype for weight in adapted.parameters()}
    assert kinds == {torch.uint8, torch.bfloat16}


def test_whole_weights_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama(num_hidden_layers=6).save_pretrained(tmp_path)
    quantize, read, most = packed.quantize_4bit, [], []

    def watched(weight: torch.Tensor, **options: Any) -> Any:
        read.append(weakref.ref(weight))
        most.append(sum(each() is not None for each in read))
        return quantize(weight, **options)

    monkeypatch.setattr(packed, "quantize_4bit", watched)
    load_quantized(tmp_path, torch.float32, CPU)
    assert len(most) == 42
    assert max(most) == 1


def adapted(folder: Path, *, dropout: float = 0.0, fast: bool = False) -> Any:
    """A model in 4 bits whose adapters have left zero."""
    model = load_quantized(folder, torch.float32, CPU)
    torch.manual_seed(0)
    lora = Lora(rank=4, dropout=dropout, quantization="NF4")
    found: Any = get_peft_model(model, lora_config(lora))
    for name, weight in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    if fast:
        assert attach(found) == 14
    return found.train()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layer_and_adapter_in_one_piece_equal_peft(tmp_path: Path, dropout: float) -> None:
    tiny_llama().save_pretrained(tmp_path)
    ids = torch.randint(1, 64, (2, 12), generator=torch.Generator().manual_seed(2))
    found = []
    for fast in (False, True):
        model = adapted(tmp_path, dropout=dropout, fast=fast)
        torch.manual_seed(5)
        logits = model(input_ids=ids).logits
        logits.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            scored = model.eval()(input_ids=ids).logits
        found.append({"logits": logits.detach(), "scored": scored, **gradients})
    plain, fast_ones = found
    assert len(plain) == 2 + 28 and plain.keys() == fast_ones.keys()
    for name, value in plain.items():
        tolerance = {"rtol": 1e-5, "atol": 1e-5 * float(value.abs().max())}
        torch.testing.assert_close(fast_ones[name], value, msg=name, **tolerance)
        assert value.any(), name


def test_an_unpacked_weight_is_not_kept_for_the_backward_pass(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    model = adapted(tmp_path, fast=True)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randn(50, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    made = [tensor.shape for place, tensor in kept.items() if place not in own]
    assert sorted(made) == [(50, 4), (50, 32)], "x A and x"
