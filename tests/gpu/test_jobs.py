"""Training on a GPU is the training that the tests on CPUs prove: at every stage and precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu.process import told_by

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
STAGES = range(4)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told_by("gpu.jobs", tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """Losses of the same job in plain torch, in fp32 on the CPU."""
    from gpu.jobs import AS_PLAIN
    from parity.reference import train_plainly
    from unit.trainer.train.jobs import Job
    from unit.trainer.train.tiny import row_lengths

    job = Job(
        lengths=row_lengths(3, 17),
        config={
            "method": {},
            "training": {
                "steps": 8,
                "microBatchSize": 2,
                "accumulation": 4,
                "learningRate": 0.003,
                "precision": "FP32",
                **AS_PLAIN,
            },
        },
        model={"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
    )
    losses: list[float] = train_plainly(job, 1)["losses"]
    return losses


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("precision", "close"), [("FP32", 2e-5), ("BF16", 5e-3)])
def test_losses_are_those_of_plain_torch(
    told: dict[str, Any], plain: list[float], stage: int, precision: str, close: float
) -> None:
    job = told[f"{precision} {stage}"]
    assert job["failure"] is None
    assert job["losses"] == pytest.approx(plain, rel=close)
    assert job["skipped"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_fp16_finds_its_loss_scale_and_stays_close(
    told: dict[str, Any], plain: list[float], stage: int
) -> None:
    job = told[f"FP16 {stage}"]
    applied = [norm is not None and norm < float("inf") for norm in job["norms"]]
    first = applied.index(False) if False in applied else len(applied) - 1
    assert job["losses"][: first + 1] == pytest.approx(plain[: first + 1], rel=5e-3)
    assert job["skipped"] < 8, "it does not search for ever"


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_learn_the_same_at_every_stage(told: dict[str, Any], stage: int) -> None:
    """With dropout, whose masks are a function of seed, step and rank."""
    job = told[f"LoRA {stage}"]
    assert job["failure"] is None
    assert job["losses"] == pytest.approx(told["LoRA 2"]["losses"], rel=5e-3)
    assert job["losses"][-1] < job["losses"][0]


def test_activation_checkpointing_changes_nothing(told: dict[str, Any]) -> None:
    found, expected = told["checkpointing"]["losses"], told["not checkpointing"]["losses"]
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_changes_nothing(told: dict[str, Any], stage: int) -> None:
    job = told[f"offload {stage}"]
    assert job["failure"] is None
    assert job["losses"] == pytest.approx(told[f"BF16 {stage}"]["losses"], rel=2e-3)


def test_a_stopped_job_goes_on_where_it_was(told: dict[str, Any]) -> None:
    stopped, resumed, whole = told["stopped"], told["resumed"], told["LoRA 2"]
    assert stopped["failure"] == "Preempted"
    done = resumed["resumed"]
    assert len(stopped["losses"]) == done and 0 < done < 8
    assert stopped["losses"] + resumed["losses"] == pytest.approx(whole["losses"], rel=1e-3)


def test_the_same_job_twice_is_the_same_job(told: dict[str, Any]) -> None:
    """Bit by bit where the kernels add up in one order; attention's backward pass need not."""
    assert told["again"]["losses"] == pytest.approx(told["LoRA 2"]["losses"], rel=1e-4)
    same = told["again"]["losses"] == told["LoRA 2"]["losses"]
    print("the same job twice is", "equal bit by bit" if same else "not equal bit by bit")


def test_a_gpu_without_memory_has_its_class(told: dict[str, Any]) -> None:
    assert told["no memory"]["failure"] == "CudaOom", told["no memory"]
