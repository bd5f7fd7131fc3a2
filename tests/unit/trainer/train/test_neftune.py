"""Noise on the input embeddings: its size by sample, and only while training."""

from __future__ import annotations

import pytest
import torch
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer import neftune

POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]])
"""Rows of samples with 3 and 2 tokens, and with 4 and 1."""


def test_a_token_knows_how_long_its_sample_is() -> None:
    assert neftune.sample_lengths(POSITIONS).tolist() == [[3, 3, 3, 2, 2], [4, 4, 4, 4, 1]]
    cut = torch.tensor([[5, 6, 0, 1]])
    assert neftune.sample_lengths(cut).tolist() == [[2, 2, 2, 2]], "a row begins a sample"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_is_uniform_within_its_bounds(dtype: torch.dtype) -> None:
    hidden, alpha = 4096, 5.0
    found = neftune.noise(torch.zeros(2, 5, hidden, dtype=dtype), POSITIONS, alpha)
    assert found.dtype == dtype
    bounds = alpha / (neftune.sample_lengths(POSITIONS) * hidden).sqrt()
    largest = found.float().abs().amax(-1)
    assert torch.all(largest <= bounds * 1.01) and torch.all(largest >= bounds * 0.98)
    # Uniform: mean 0, and a third of the bound squared for the square.
    scaled = found.float() / bounds[..., None]
    assert abs(float(scaled.mean())) < 0.02
    assert float(scaled.square().mean()) == pytest.approx(1 / 3, abs=0.01)


def test_a_model_is_disturbed_only_while_it_trains() -> None:
    model = tiny_llama()
    ids = torch.arange(10).view(2, 5)
    inputs = {"input_ids": ids, "position_ids": POSITIONS, "use_cache": False}
    quiet = model.eval()(**inputs).logits
    neftune.attach(model, 5)
    assert torch.equal(model(**inputs).logits, quiet)
    model.train()
    torch.manual_seed(1)
    one = model(**inputs).logits
    again = model(**inputs).logits
    torch.manual_seed(1)
    assert not torch.allclose(one, quiet, atol=1e-3)
    assert not torch.allclose(one, again, atol=1e-3)
    assert torch.equal(model(**inputs).logits, one)
