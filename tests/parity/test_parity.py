"""ZeRO training equals plain torch training: losses, first gradient, final weights.

Eight cells run always; ``--matrix`` runs all: stage × method × accumulation × ranks × optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
from parity.reference import train_plainly
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths
from unit.trainer.train.workers import train

STEPS = 10


class Cell(NamedTuple):
    stage: int
    method: str
    accumulation: int
    ranks: int
    optimizer: str

    def __str__(self) -> str:
        return (
            f"zero{self.stage}-{self.method}-acc{self.accumulation}-{self.ranks}r-{self.optimizer}"
        )

    def job(self) -> Job:
        # 17 rows: never a multiple of the global batch, so short windows are part of every cell.
        return Job(
            lengths=row_lengths(3, 17),
            first_gradient=True,
            config={
                "zeroStage": self.stage,
                "method": {"lora": {"rank": 4, "alpha": 8}} if self.method == "lora" else {},
                "training": {
                    "steps": STEPS,
                    "microBatchSize": 2,
                    "accumulation": self.accumulation,
                    "learningRate": 0.1 if self.optimizer == "SGD" else 0.003,
                    "maxGradNorm": 0.0,
                    "optimizer": {"type": self.optimizer, "epsilon": 1e-6},
                },
            },
        )


ALWAYS = [
    Cell(0, "full", 4, 2, "SGD"),
    Cell(0, "lora", 1, 1, "AdamW"),
    Cell(1, "lora", 4, 2, "SGD"),
    Cell(1, "full", 1, 3, "AdamW"),
    Cell(2, "full", 4, 2, "AdamW"),
    Cell(2, "lora", 1, 3, "SGD"),
    Cell(3, "lora", 4, 2, "AdamW"),
    Cell(3, "full", 1, 3, "SGD"),
]
MATRIX = [
    Cell(*cell) for cell in product(range(4), ("lora", "full"), (1, 4), (1, 2, 3), ("SGD", "AdamW"))
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        cells = MATRIX if metafunc.config.getoption("--matrix", default=False) else ALWAYS
        metafunc.parametrize("cell", cells, ids=str)


def test_traps_27_and_35_training_equals_plain_torch(
    cell: Cell, record_property: Callable[[str, object], None]
) -> None:
    job = cell.job()
    expected = train_plainly(job, cell.ranks)
    results = run_gang(train, cell.ranks, job)
    masters = whole(results, "masters")
    found = {
        "losses": max(
            abs(step["loss"] - loss) / abs(loss)
            for result in results
            for step, loss in zip(result["steps"], expected["losses"], strict=True)
        ),
        "gradients": relative_norm(whole(results, "gradients"), expected["gradients"]),
        "weights": relative_norm(masters, expected["masters"]),
    }
    for name, value in found.items():
        record_property(name, value)

    assert found["losses"] <= 1e-6
    assert found["gradients"] <= 1e-6
    if cell.optimizer == "SGD":
        for name, values in expected["masters"].items():
            assert torch.allclose(masters[name], values, rtol=0, atol=1e-6), name
    else:
        # Adam turns summation noise into steps of the learning rate; only the norm means something.
        assert found["weights"] <= 1e-5


def relative_norm(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all parameters."""
    assert found.keys() == expected.keys()
    names = sorted(expected)
    difference = torch.cat([(found[n] - expected[n]).double() for n in names])
    size = torch.cat([expected[n].double() for n in names])
    return float(difference.norm() / size.norm())
