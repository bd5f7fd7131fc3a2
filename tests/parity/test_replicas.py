"""Ranks begin with the weights of rank 0, and nothing is sent where they have them already."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepspeed import DeepSpeedEngine
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job, built, joined
from unit.trainer.train.tiny import row_lengths

from finetune_trainer import engine as engines
from finetune_trainer.rendezvous import Place
from finetune_trainer.replicas import fingerprint

METHODS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": {"rank": 4}}}


def begin(place: Place, job: Job, spoilt: str | None) -> dict[str, Any]:
    """``spoilt``: a parameter of which the last rank has one bit wrong."""
    sent: list[int] = []
    send = DeepSpeedEngine._broadcast_model
    DeepSpeedEngine._broadcast_model = lambda engine: (sent.append(1), send(engine))
    joined(place)
    if spoilt is not None and place.rank == place.world_size - 1:
        accelerate = engines.accelerate

        def spoil(model: torch.nn.Module, **rest: Any) -> bool:
            name = next(name for name, _ in model.named_parameters() if spoilt in name)
            model.get_parameter(name).data.view(torch.int32).view(-1)[-1] ^= 1
            return accelerate(model, **rest)

        engines.accelerate = spoil
    engine = built(job, job.run_config(place.world_size))
    parameters = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    assert DeepSpeedEngine._broadcast_model is not send
    return {"sent": len(sent), "parameters": parameters, "hash": fingerprint(parameters.values())}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spoilt", [None, "embed_tokens", "norm.weight", "layers.1"])
def test_only_different_weights_are_sent(method: str, spoilt: str | None) -> None:
    job = Job(lengths=row_lengths(1, 11), config={"zeroStage": 2, "method": METHODS[method]})
    ends = run_gang(begin, 3, job, spoilt)
    assert [end["sent"] for end in ends] == [0 if spoilt is None else 1] * 3
    for name, expected in ends[0]["parameters"].items():
        assert all(torch.equal(end["parameters"][name], expected) for end in ends), name
    assert len({end["hash"] for end in ends}) == 1


def test_no_bit_of_a_weight_is_overlooked_nor_which_weight_has_it() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(64), torch.randn(3, 5).bfloat16(), torch.tensor(1.5)]
    found = {fingerprint(weights), fingerprint(weights[::-1]), fingerprint(weights[:2])}
    words = weights[0].view(torch.int64)
    for bit in range(64):
        flipped = words.clone()
        flipped[5] ^= 1 << bit if bit < 63 else -(2**63)
        found.add(fingerprint([flipped.view(torch.float32), *weights[1:]]))
    for signs in ([1, 3], [0, 2], [0, 1], list(range(64))):
        turned = weights[0].clone()
        turned[signs] *= -1
        found.add(fingerprint([turned, *weights[1:]]))
    assert len(found) == 3 + 64 + 4
    assert fingerprint([each.clone() for each in weights]) in found
