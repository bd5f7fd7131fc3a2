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
from finetune_trainer.replicas import checksum

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
    return {"sent": len(sent), "parameters": parameters, "sum": checksum(parameters.values())}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spoilt", [None, "embed_tokens", "norm.weight", "layers.1"])
def test_only_different_weights_are_sent(method: str, spoilt: str | None) -> None:
    job = Job(lengths=row_lengths(1, 11), config={"zeroStage": 2, "method": METHODS[method]})
    ends = run_gang(begin, 3, job, spoilt)
    assert [end["sent"] for end in ends] == [0 if spoilt is None else 1] * 3
    for name, expected in ends[0]["parameters"].items():
        assert all(torch.equal(end["parameters"][name], expected) for end in ends), name
    assert len({end["sum"] for end in ends}) == 1


def test_the_checksum_sees_each_bit_and_each_place() -> None:
    torch.manual_seed(0)
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    found = set()
    for kind in kinds:
        for size in (1, 3, 8, 13):
            one = (torch.randn(size) * 50).to(kind)
            another = one.clone()
            another.view(torch.uint8)[-1] ^= 1
            two = torch.arange(1, size + 1).to(kind)
            sums = [checksum(each) for each in ([one, two], [another, two], [two, one], [one])]
            assert len(set(sums)) == 4, (kind, size)
            assert checksum([one.clone(), two.clone()]) == sums[0]
            found |= set(sums)
    assert all(0 <= each < 2**62 for each in found)
    assert checksum([]) == 0
