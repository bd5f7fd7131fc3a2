"""global batch = micro-batch × accumulation × world size, for whatever is left out."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_spec

from finetune_operator.batch import Batch, solve_batch
from finetune_operator.errors import InvalidSpec
from finetune_operator.plan import parse_spec


def spec(total: int | None, micro: int | None, workers: dict[str, Any], length: int = 1024) -> Any:
    wish = make_spec(workers=workers, data={"sequenceLength": length})
    wish["training"] = {"steps": 1}
    if total is not None:
        wish["training"]["globalBatchSize"] = total
    if micro is not None:
        wish["training"]["microBatchSize"] = micro
    return parse_spec(wish)


TWO = {"count": 2, "ranksPerWorker": 1}
THREE = {"count": 3, "ranksPerWorker": 1}
EIGHT_GPUS = {"count": 2, "gpusPerWorker": 4, "ranksPerWorker": None}


@pytest.mark.parametrize(
    ("wish", "solution"),
    [
        pytest.param(spec(16, 2, TWO), (2, 4, 16), id="both are given"),
        pytest.param(
            spec(16, None, TWO), (2, 4, 16), id="the micro-batch fits 2,048 tokens on CPU"
        ),
        pytest.param(spec(16, None, TWO, 64), (8, 1, 16), id="short sequences leave nothing over"),
        pytest.param(spec(16, None, TWO, 9000), (1, 8, 16), id="a long sequence goes alone"),
        pytest.param(spec(64, None, EIGHT_GPUS), (8, 1, 64), id="a GPU takes 8,192 tokens"),
        pytest.param(spec(None, 3, TWO), (3, 3, 18), id="the total is the next one from 16"),
        pytest.param(spec(None, None, THREE), (2, 3, 18), id="nothing is given"),
        pytest.param(spec(None, 32, TWO), (32, 1, 64), id="a big micro-batch makes a big total"),
    ],
)
def test_the_equation_holds_and_the_choice_is(wish: Any, solution: tuple[int, int, int]) -> None:
    batch = solve_batch(wish)
    assert (batch.micro, batch.accumulation, batch.total) == solution
    assert batch.micro * batch.accumulation * wish.workers.world_size == batch.total


def test_another_number_of_workers_keeps_the_batch_that_training_began_with() -> None:
    assert solve_batch(spec(None, None, {"count": 4, "ranksPerWorker": 1}), settled=16).total == 16
    with pytest.raises(InvalidSpec) as caught:
        solve_batch(spec(None, None, THREE), settled=16)
    (fault,) = caught.value.faults
    assert (fault.field, fault.reason) == ("spec.workers.count", "BatchDoesNotFit")
    assert fault.message.endswith("use 1, 2, 4, 8, 16")


@pytest.mark.parametrize(
    ("also", "total"),
    [
        pytest.param((2, 3), 18, id="18 is enough for two workers as well"),
        pytest.param((3, 4), 24, id="four as well"),
        pytest.param((3, 5), 30, id="five as well"),
        pytest.param((3, 13), 18, id="a batch of 39 would be another training"),
    ],
)
def test_a_batch_that_is_not_given_fits_the_bounds_of_an_elastic_gang(
    also: tuple[int, ...], total: int
) -> None:
    batch = solve_batch(spec(None, 1, THREE), also=also)
    assert batch.total == batch.accumulation * 3 == total
    assert solve_batch(spec(None, 1, THREE), settled=24, also=also).total == 24


@pytest.mark.parametrize(
    ("micro", "world", "solution"),
    [(8, 2, (8, 3)), (8, 4, (6, 2)), (8, 16, (3, 1)), (5, 4, (4, 3)), (1, 3, (1, 16))],
)
def test_a_batch_is_shared_anew_and_its_micro_batch_never_grows(
    micro: int, world: int, solution: tuple[int, int]
) -> None:
    batch = Batch(micro, 1, 48).shared_by(world)
    assert (batch.micro, batch.accumulation, batch.total) == (*solution, 48)


def test_a_misfit_is_refused_with_the_nearest_size_that_fits() -> None:
    # The types refuse it first where all three are given; the solver must hold without them.
    wish = spec(16, 2, TWO)
    training = wish.training.model_copy(update={"global_batch_size": 18})
    with pytest.raises(InvalidSpec) as caught:
        solve_batch(wish.model_copy(update={"training": training}))
    (fault,) = caught.value.faults
    assert fault.reason == "BatchDoesNotFit"
    assert fault.field == "spec.training.globalBatchSize"
    assert "nearest that fits is 20" in fault.message
