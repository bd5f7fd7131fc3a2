import pytest

from finetune_trainer.config import RunConfig
from finetune_trainer.steps import planned_steps, steps_per_epoch

BASE = {
    "job": {"namespace": "team", "name": "bot", "uid": "u"},
    "model": {"path": "/sources/model"},
    "data": {"train": [], "sequenceLength": 64},
    "method": {},
    "zeroStage": 2,
    "workers": {"count": 1, "ranksPerWorker": 2, "device": "CPU"},
}


def config(**training: float) -> RunConfig:
    batch = {"microBatchSize": 2, "accumulation": 3, "learningRate": 0.001}
    return RunConfig.model_validate({**BASE, "training": {**batch, **training}})


@pytest.mark.parametrize(
    ("rows", "batch", "steps"), [(24, 12, 2), (25, 12, 3), (1, 12, 1), (12, 12, 1)]
)
def test_a_short_last_batch_is_a_step_of_its_own(rows: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(rows, batch) == steps


@pytest.mark.parametrize(
    ("training", "rows", "steps"),
    [
        ({"epochs": 3}, 25, 9),
        ({"epochs": 0.1}, 360, 3),
        ({"epochs": 0.11}, 360, 4),
        ({"epochs": 0.001}, 12, 1),
        ({"epochs": 1.5}, 25, 5),
        ({"steps": 7}, 25, 7),
    ],
)
def test_planned_steps_come_from_the_real_rows(
    training: dict[str, float], rows: int, steps: int
) -> None:
    planned = planned_steps(config(**training), rows)
    assert planned == steps


def test_the_global_batch_is_micro_batch_times_accumulation_times_ranks() -> None:
    assert config(steps=1).global_batch_size == 2 * 3 * 2
