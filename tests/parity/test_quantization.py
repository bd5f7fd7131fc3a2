"""Adapters beside weights in 4 bits train as in plain torch beside the numbers that these are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nf4 import save_unpacked
from parity.reference import train_plainly
from parity.test_methods import assert_equal, job, lora
from parity.test_resume import job as long_job
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import stop_in
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import tiny_llama
from unit.trainer.train.workers import adapter_losses, imported, train

from finetune_trainer.model import load_quantized

NF4: dict[str, Any] = {"quantization": "NF4"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("stage", "ranks", "training"),
    [(0, 1, {}), (1, 2, {}), (2, 2, {"activationCheckpointing": True})],
    ids=str,
)
def test_training_equals_plain_lora_on_unpacked_weights(
    model: Path, stage: int, ranks: int, training: dict[str, Any]
) -> None:
    quantized = load_quantized(model, torch.float32, torch.device("cpu"))
    save_unpacked(quantized, tiny_llama(), model.with_name("unpacked"))
    plain, small = job(stage, lora(), **training), job(stage, lora(**NF4), **training)
    plain.start, small.start = model.with_name("unpacked"), model
    expected = train_plainly(plain, ranks)
    plain.start = model
    assert train_plainly(plain, ranks)["losses"] != pytest.approx(expected["losses"], rel=1e-4)
    found = run_gang(train, ranks, small)
    assert_equal(found, expected)
    gradients = whole(found, "gradients")
    assert len(gradients) == 28
    # A first step: B is zero, and so is the gradient of A.
    assert all(value.any() for name, value in gradients.items() if "lora_B" in name)


def test_traps_22_23_25_a_stopped_run_goes_on_bit_for_bit(model: Path, tmp_path: Path) -> None:
    small = long_job(2, method={"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, **NF4}})
    small.start = model
    straight = run_gang(train, 2, small)
    run_gang(stop_in, 2, small, tmp_path / "work", 0, "train", 4)
    resumed = run_gang(train, 2, small, tmp_path / "work", 1)
    assert resumed[0]["steps"] == straight[0]["steps"][5:]
    expected, found = whole(straight, "masters"), whole(resumed, "masters")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_bitsandbytes_is_imported_where_weights_are_quantized_alone(model: Path) -> None:
    """Its import costs seconds of each start."""
    small = job(0, lora())
    assert run_gang(imported, 1, "bitsandbytes", small, model) == [False]
    small.config["method"] = lora(**NF4)
    assert run_gang(imported, 1, "bitsandbytes", small, model) == [True]


def test_trap_18_zero_3_is_refused_by_the_trainer_too(model: Path) -> None:
    said = "ConfigInvalid: spec.method.lora.quantization: ZeRO 3 cannot partition 4-bit weights"
    with pytest.raises(AssertionError, match=said):
        run_gang(adapter_losses, 1, job(3, lora(**NF4)), model)


def test_the_engine_is_built_from_the_folder(model: Path) -> None:
    small = job(2, lora(**NF4))
    first, second = run_gang(adapter_losses, 2, small, model)
    assert first == second and first[2] < first[0]
