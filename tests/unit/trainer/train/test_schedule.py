"""The learning rate over a job."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune_trainer.config import Schedule
from finetune_trainer.schedule import learning_rate, warmup_steps

PEAK = 0.4
STEPS = 100


def trace(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [learning_rate(schedule, PEAK, step, steps) for step in range(steps)]


@pytest.mark.parametrize("kind", ["Cosine", "Linear"])
@pytest.mark.parametrize("steps", [2, 3, 10, 97, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 1.0])
def test_trap_08_the_last_step_has_exactly_the_final_rate(
    kind: str, steps: int, warmup: float
) -> None:
    schedule = Schedule(type=kind, warmup_fraction=warmup, final_fraction=0.1)
    rates = trace(schedule, steps)
    assert rates[-1] == PEAK * 0.1
    assert all(rate > PEAK * 0.1 for rate in rates[warmup_steps(schedule, steps) : -1])


@pytest.mark.parametrize(
    ("fraction", "steps", "expected"), [(0.07, 100, 7), (0.55, 100, 55), (0.03, 40, 2), (1, 5, 4)]
)
def test_steps_of_warm_up_are_rounded_up_without_the_noise_of_a_product(
    fraction: float, steps: int, expected: int
) -> None:
    assert warmup_steps(Schedule(warmup_fraction=fraction), steps) == expected


@pytest.mark.parametrize("kind", ["Cosine", "Linear", "Constant"])
def test_it_rises_evenly_to_the_peak_and_never_rises_again(kind: str) -> None:
    rates = trace(Schedule(type=kind, warmup_fraction=0.1))
    rises = [after - before for before, after in pairwise(rates[:11])]
    assert rises == pytest.approx([PEAK / 11] * 10)
    assert rates[10] == PEAK
    assert all(after <= before for before, after in pairwise(rates[10:]))


def test_the_forms_differ_half_way() -> None:
    half = {
        kind: learning_rate(Schedule(type=kind, warmup_fraction=0, final_fraction=0), 1.0, 25, 101)
        for kind in ("Cosine", "Linear", "Constant")
    }
    assert half == pytest.approx({"Cosine": 0.853553, "Linear": 0.75, "Constant": 1.0}, rel=1e-5)


def test_a_single_step_trains_at_the_peak() -> None:
    assert trace(Schedule(), 1) == [PEAK]
