"""Loss spikes are found, and nothing that is none is taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from finetune_trainer.spikes import LEAST_SPREAD, Spike, find_spike

WINDOW, FACTOR = 64, 8.0
"""The defaults of ``spec.recovery.lossSpike``."""


def spikes(curve: list[float], *, window: int = WINDOW, factor: float = FACTOR) -> list[int]:
    """Positions that are spikes; those are not remembered, as when they are skipped."""
    found, kept = [], list[float]()
    for at, loss in enumerate(curve):
        if find_spike(loss, kept, window=window, factor=factor):
            found.append(at)
        else:
            kept.append(loss)
    return found


def fall(steps: int, start: float, end: float, pace: float) -> np.ndarray:
    return end + (start - end) * np.exp(-np.arange(steps) / pace)


Curve = Callable[[np.random.Generator], np.ndarray]
CALM: dict[str, Curve] = {
    "a warm-up that rises before it falls": lambda r: (
        np.concatenate([np.linspace(2.0, 2.6, 30), fall(600, 2.6, 1.1, 60)])
        + r.normal(0, 0.08, 630)
    ),
    "fine-tuning with noisy batches": lambda r: fall(600, 2.2, 1.4, 80) + r.normal(0, 0.25, 600),
    "from random weights": lambda r: fall(600, 11.0, 3.0, 40) + r.normal(0, 0.1, 600),
    "rows learned by heart, epoch by epoch": lambda r: (
        np.repeat([2.0, 1.2, 0.6, 0.2, 0.05, 0.02], 100) + np.abs(r.normal(0, 0.02, 600))
    ),
    "two kinds of data, one rare": lambda r: (
        np.where(r.random(600) < 0.2, 2.4, 0.7) + r.normal(0, 0.05, 600)
    ),
    "a skewed scatter": lambda r: 1.0 + r.gamma(16, 0.03, 600),
    "a curve that lies still": lambda r: np.full(600, 0.01) + r.normal(0, 1e-4, 600),
    "an instability that builds up over hundreds of steps": lambda r: (
        np.concatenate([fall(300, 2.5, 1.5, 50), np.linspace(1.5, 2.2, 300)])
        + r.normal(0, 0.1, 600)
    ),
}


@pytest.mark.parametrize("name", CALM)
def test_a_normal_curve_raises_no_alarm(name: str) -> None:
    alarms = [len(spikes(CALM[name](np.random.default_rng(seed)).tolist())) for seed in range(20)]
    assert sum(alarms) == 0, alarms


@pytest.mark.parametrize("name", ["fine-tuning with noisy batches", "from random weights"])
@pytest.mark.parametrize("at", [40, 200, 599])
def test_a_jump_is_found_at_its_step_and_nowhere_else(name: str, at: int) -> None:
    for seed in range(20):
        curve = CALM[name](np.random.default_rng(seed))
        curve[at] += 3.0 if at > 100 or "noisy" in name else 25.0
        assert spikes(curve.tolist()) == [at], seed


def test_a_jump_that_stays_is_a_spike_at_each_of_its_steps_while_it_is_left_out() -> None:
    curve = [1.0] * 100 + [4.0] * 3 + [1.0] * 10
    assert spikes(curve) == [100, 101, 102]


def test_a_loss_that_was_there_before_is_none() -> None:
    before = [1.0] * 40 + [4.0] + [1.0] * 20
    assert find_spike(3.9, before, window=WINDOW, factor=FACTOR) is None
    assert find_spike(4.3, before, window=WINDOW, factor=FACTOR) is not None
    assert find_spike(3.9, before, window=20, factor=FACTOR), "but it must lie within the window"


def test_nothing_is_a_spike_before_half_a_window_is_known() -> None:
    for known in range(WINDOW):
        found = find_spike(99.0, [1.0] * known, window=WINDOW, factor=FACTOR)
        assert (found is not None) == (known >= WINDOW // 2)


def test_the_limit_is_the_median_and_so_many_spreads() -> None:
    before = [1.0, 1.1, 1.2, 1.3, 1.4] * 8  # median 1.2, median deviation 0.1
    spread = 1.4826 * 0.1
    assert find_spike(1.2 + 5.99 * spread, before, window=40, factor=6) is None
    found = find_spike(1.2 + 6.01 * spread, before, window=40, factor=6)
    assert isinstance(found, Spike)
    assert (found.middle, found.spread) == (1.2, pytest.approx(spread))
    assert found.limit == pytest.approx(1.2 + 6 * spread)
    assert str(found).startswith("the loss jumped to 2.091 from about 1.2 (limit 2.09: 0.15")


def test_one_wild_loss_does_not_hide_the_next() -> None:
    """Mean and standard deviation would: that is why median and deviation are used."""
    before = [1.0, 1.1] * 16 + [3.0, 3.0]
    assert float(np.mean(before) + 6 * np.std(before)) > 3.7
    assert find_spike(3.7, before, window=WINDOW, factor=FACTOR) is not None


def test_a_jump_that_is_small_for_people_is_none_however_still_the_curve() -> None:
    assert find_spike(0.01 + 5.9 * LEAST_SPREAD, [0.01] * 64, window=64, factor=6) is None
    assert find_spike(0.01 + 6.1 * LEAST_SPREAD, [0.01] * 64, window=64, factor=6) is not None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_another_matter(loss: float) -> None:
    assert find_spike(loss, [1.0] * 64, window=64, factor=6) is None
