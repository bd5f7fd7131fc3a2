"""The self-test in real gangs: it changes nothing, and it finds what is broken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AttentionInterface
from unit.trainer.self_test.ranks import spoiled, with_and_without
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job

pytestmark = pytest.mark.gang

ROWS = [[2], [12, 20], [9], [3, 4, 30], [10], [7], [2, 2], [25]]
LORA = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


def job(stage: int, method: dict[str, Any], precision: str = "FP32", checkpointing: bool = False,
        **config: Any) -> Job:  # fmt: skip
    training = {
        "steps": 2,
        "dropout": 0.1,
        "precision": precision,
        "activationCheckpointing": checkpointing,
    }
    return Job(ROWS, config={"zeroStage": stage, "method": method, "training": training, **config})


UNTOUCHED = {
    "zero 0, full": job(0, {}),
    "zero 1, LoRA, checkpointing": job(1, LORA, checkpointing=True),
    "zero 2, LoRA, BF16": job(2, LORA, "BF16"),
    "zero 3, full, checkpointing": job(3, {}, checkpointing=True),
}


def leaky(module: Any, query: Any, key: Any, value: Any, _mask: Any, **_: Any) -> Any:
    """Attention that is causal, and deaf to where a sample begins."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).contiguous(), None


def leak(model: Any) -> None:
    AttentionInterface.register("leaky", leaky)
    model.set_attn_implementation("leaky")


def count_over_the_row(model: Any) -> None:
    """Positions are added by the place in the row."""
    model.model.embed_tokens.register_forward_hook(
        lambda _m, _i, out: out + torch.arange(out.shape[1])[None, :, None].sin()
    )


def freeze(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.requires_grad = False


def detach(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, out: out.detach())


SPOILED = {
    "sound": (job(0, {}), None),
    "leak": (job(0, {}), leak),
    "leak, not packed": (job(0, {}, data={"packing": "None"}), leak),
    "positions": (job(0, {}), count_over_the_row),
    "frozen": (job(0, {}), freeze),
    "detached": (job(0, {}), detach),
}


@pytest.fixture(scope="module")
def untouched() -> list[dict[str, Any]]:
    return run_gang(with_and_without, 2, UNTOUCHED, timeout=400)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    results: list[dict[str, Any]] = run_gang(spoiled, 1, SPOILED, timeout=400)
    return results[0]


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_run_with_it_equals_one_without(untouched: list[dict[str, Any]], name: str) -> None:
    for told in (result[name] for result in untouched):
        assert told["error"] is None
        for what in ("steps_equal", "weights_equal", "weights_untouched"):
            assert told[what], what
        assert told["random_untouched"] and told["no_gradient"] and told["training"]
        assert told["beat"] == "load", "the account and the judge of hangs know it as loading"
        (line,) = told["lines"]  # of rank 0, in the one file of the attempt
        assert line["selfTest"]["passed"]
        assert line["selfTest"]["packed"] == pytest.approx(line["selfTest"]["alone"], rel=1e-3)


@pytest.mark.parametrize("name", ["sound", "leak, not packed"])
def test_what_cannot_mislead_training_passes(found: dict[str, Any], name: str) -> None:
    assert found[name]["error"] is None


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("leak", "spec.data.packing: this model does not keep packed samples apart", "None"),
        ("positions", "spec.data.packing: packed samples lose ", "None"),
        ("frozen", "1 of 21 trainable parameters are frozen although", "targetModules"),
        ("detached", "4 of 21 trainable parameters get no gradient from the loss", "targetModules"),
    ],
)
def test_what_would_mislead_training_ends_it_with_a_name(
    found: dict[str, Any], name: str, says: str, hint: str
) -> None:
    told = found[name]
    assert told["error"].startswith(f"the self-test before the first step: {says}")
    assert told["code"] == 83
    assert hint in told["hint"]
    (line,) = told["lines"]
    assert line["selfTest"]["passed"] is False
    assert line["selfTest"]["fault"] in told["error"]
