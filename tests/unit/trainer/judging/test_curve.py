"""What is read from curves of losses: synthetic ones, whose fault is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from finetune_trainer.config import Overfitting
from finetune_trainer.judging.course import REMEMBERED, Course, Point, remembered
from finetune_trainer.judging.curve import Judgement, judge
from finetune_trainer.judging.trend import gain_ahead

Curve = Callable[[float], float]
BASE = 3.0


def fall(low: float, high: float = BASE, speed: float = 6.0) -> Curve:
    """From ``high`` towards ``low``, as losses fall; the time goes from 0 to 1."""
    return lambda t: low + (high - low) * math.exp(-speed * t)


def course(
    held: Curve, train: Curve | None, evaluations: int = 10, share: float = 1.0, **policy: Any
) -> Course:
    steps = [10 * (n + 1) for n in range(evaluations)]
    points = [
        Point(step, held(t), train(t) if train else None)
        for step in steps
        if (t := step / (10 * evaluations) * share) is not None
    ]
    settings = Overfitting.model_validate(policy)
    return Course(points, settings, base=BASE, share=share, lora=True, base_on_train=BASE)


def turning(low: float, at: float, rise: float) -> Curve:
    """Falls until ``at``, then rises by ``rise`` until the end."""
    return lambda t: low + (BASE - low) * max(0.0, 1 - t / at) + rise * max(0.0, t - at)


def found(*args: Any, **policy: Any) -> Judgement | None:
    return judge(course(*args, **policy))


@pytest.mark.parametrize(
    ("held", "train", "policy", "finding"),
    [
        pytest.param(fall(1.0), fall(0.9), {}, "WellFitted", id="a good run"),
        pytest.param(turning(1.0, 0.4, 1.5), fall(0.2), {}, "Overfitting", id="learnt by heart"),
        pytest.param(turning(1.0, 0.4, 1.5), fall(0.2), {"action": "Ignore"}, None, id="ignored"),
        pytest.param(
            turning(1.0, 0.8, 1.5), fall(0.2), {}, "WellFitted", id="risen for two evaluations only"
        ),
        pytest.param(
            turning(1.0, 0.8, 1.5), fall(0.2), {"patience": 2}, "Overfitting", id="less patience"
        ),
        pytest.param(
            turning(1.0, 0.4, 0.1), fall(0.2), {"minDelta": 0.2}, "NoImprovement",
            id="a rise below minDelta is none",
        ),
        pytest.param(fall(1.0), fall(0.2), {"maxGap": 0.5}, "Overfitting", id="a wide gap"),
        pytest.param(fall(1.0), fall(0.9), {"maxGap": 0.5}, "WellFitted", id="a narrow gap"),
        pytest.param(
            turning(1.0, 0.4, 0.0), turning(0.9, 0.4, 0.0), {}, "NoImprovement", id="a plateau"
        ),
        pytest.param(
            turning(1.0, 0.4, 1.0), turning(0.9, 0.4, 1.0), {}, "NoImprovement",
            id="both losses rise: it diverges, it does not overfit",
        ),
        pytest.param(turning(1.0, 0.4, 1.5), None, {}, "NoImprovement", id="train loss unknown"),
        pytest.param(
            lambda t: BASE + t, fall(0.5), {"patience": 50}, "WorseThanBase", id="only worse"
        ),
        pytest.param(
            lambda t: BASE + 0.1 - 0.1 * t, fall(0.5), {}, "WorseThanBase", id="never better"
        ),
        pytest.param(
            lambda t: BASE + 0.1, fall(0.5), {}, "WorseThanBase", id="no better, and stuck"
        ),
        pytest.param(
            turning(1.0, 0.8, 20), turning(0.9, 0.8, 1), {}, "WorseThanBase",
            id="better once, but not at the end",
        ),
        pytest.param(
            turning(1.0, 0.8, 20), turning(0.9, 0.8, 1), {"action": "StopKeepBest"}, "WellFitted",
            id="better once, and that is kept",
        ),
        pytest.param(
            turning(1.0, 0.8, 20), turning(0.9, 0.8, 20), {}, "Diverged", id="away at the end"
        ),
        pytest.param(
            turning(1.0, 0.4, 20), turning(0.9, 0.4, 20), {}, "Diverged", id="away for long"
        ),
        pytest.param(lambda t: BASE + 6 * t, lambda t: BASE + 6 * t, {}, "Diverged", id="at once"),
        pytest.param(lambda t: BASE, fall(0.5), {"patience": 50}, "WorseThanBase", id="unrelated"),
        pytest.param(lambda t: 3 - t, lambda t: 3 - t, {}, "Underfitting", id="a straight fall"),
        pytest.param(fall(1.0, speed=1.0), fall(0.9, speed=1.0), {}, "Underfitting", id="too slow"),
        pytest.param(
            lambda t: 3 - 0.4 * t, lambda t: 3 - t, {}, "WellFitted", id="mostly by heart"
        ),
        pytest.param(
            fall(1.0, speed=4.5), fall(0.9, speed=4.5), {}, "WellFitted", id="it has flattened"
        ),
        pytest.param(
            lambda t: math.inf if 0.4 < t < 0.6 else 3 - t, None, {"patience": 50}, "WellFitted",
            id="no slope without numbers",
        ),
        pytest.param(lambda t: math.nan, lambda t: math.nan, {}, "WorseThanBase", id="no numbers"),
    ],
)  # fmt: skip
def test_curves_of_known_fault(
    held: Curve, train: Curve | None, policy: dict[str, Any], finding: str | None
) -> None:
    said = found(held, train, **policy)
    assert (said.finding if said else None) == finding
    if said:
        assert not said.stop and len(said.message) < 500
    if said and finding != "WellFitted":
        assert "try" in said.message, "it says what to try"


def test_in_the_middle_of_a_good_run_there_is_nothing_to_say() -> None:
    for evaluations in range(1, 10):
        assert found(fall(1.0), fall(0.9), evaluations, share=evaluations / 10) is None


def test_a_run_that_does_not_get_better_than_its_base_is_told_of_half_way() -> None:
    flat = (lambda t: BASE, lambda t: BASE)
    assert judge(course(*flat, 2, share=0.4)) is None
    said = judge(course(*flat, 3, share=0.5))
    assert said is not None and said.finding == "WorseThanBase"


def away(t: float) -> float:
    """A learning rate that is too high, at first not by much: from 3 to 1, and on to 9."""
    return BASE - 10 * t if t < 0.2 else 1 + 10 * (t - 0.2)


@pytest.mark.parametrize(
    ("action", "ends", "why"),
    [
        ("Warn", False, "; step 20 had 1: evaluation.overfitting.action StopKeepBest makes such"),
        ("StopKeepBest", True, "; step 20 is kept"),
    ],
)
def test_a_run_that_diverges_says_so_with_the_rate_to_try(
    action: str, ends: bool, why: str
) -> None:
    said = found(away, away, action=action)
    assert said is not None and said.finding == "Diverged" and said.stop == ends
    assert said.message.startswith(
        "training made the model worse: the held-out loss rose from 3 of the untouched model to 9, "
        "and that on training rows from 3 to 9; try a tenth of training.learningRate"
    )
    assert why in said.message


def findings(held: Curve, train: Curve, evaluations: int = 10, **policy: Any) -> list[str | None]:
    """What is said at each evaluation of a run."""
    said = [
        judge(course(held, train, n, share=n / evaluations, **policy))
        for n in range(1, evaluations + 1)
    ]
    return [each.finding if each else None for each in said]


def test_a_run_that_diverges_is_told_of_once_patience_is_over_and_no_earlier() -> None:
    told = findings(away, away)
    assert told == [None] * 4 + ["Diverged"] * 6


def jolt(back: float) -> Curve:
    """Above the base at once, by 2; then it falls in a line, by so much until the end."""
    return lambda t: BASE + 2 - back * t


def test_a_run_that_stays_far_above_its_base_is_told_of_after_twice_the_patience() -> None:
    """Each evaluation is better than the one before, so patience is never over."""
    told = findings(jolt(0.5), jolt(0.5), 30)
    assert told == [None] * 5 + ["Diverged"] * 25
    assert findings(jolt(0.5), jolt(0.5), 30, patience=5) == [None] * 9 + ["Diverged"] * 21


@pytest.mark.parametrize("evaluations", [8, 10, 30])
@pytest.mark.parametrize("train", [jolt(3), lambda t: BASE], ids=["with training rows", "alone"])
def test_a_run_that_is_on_its_way_back_is_left_alone(train: Curve, evaluations: int) -> None:
    """Half way the held-out loss still lies above that of the untouched model."""
    told = findings(jolt(3), train, evaluations)
    assert not {"Diverged", "WorseThanBase"} & set(told), told


def test_one_evaluation_alone_does_not_say_that_a_run_stays_away() -> None:
    """On its way back it rests for three evaluations, which are as many as tell a slope."""
    losses = [5.0, 4.8, 4.6, 4.4, 4.2, 4.0, 3.9, 3.9, 3.9, 3.6, 3.4, 3.2]
    points = [Point(step, loss, loss) for step, loss in enumerate(losses, 1)]
    for count in range(1, 13):
        seen = Course(points[:count], Overfitting(), BASE, count / 24, False, BASE)
        assert judge(seen) is None, count


def test_what_leaps_about_far_above_the_base_is_told_of_although_it_falls_now_and_then() -> None:
    losses = [9.0, 60.0, 200.0, 90.0, 300.0, 40.0, 20.0, 12.0]
    points = [Point(step, loss, loss) for step, loss in enumerate(losses, 1)]
    told = judge(Course(points, Overfitting(), BASE, 0.3, False, BASE))
    assert told is not None and told.finding == "Diverged"


def test_what_was_never_measured_is_no_divergence() -> None:
    points = [Point(1, 9.0, 9.0)]
    told = Course(points, Overfitting(), base=2.0, share=1.0, lora=True)
    said = judge(told)
    assert said is not None and said.finding == "WorseThanBase"
    assert "the held-out loss 9 is not below 2 of the untouched model" in said.message


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("evaluations", [8, 20, 60])
def test_the_gain_of_more_steps_is_that_of_the_curve(speed: float, evaluations: int) -> None:
    curve = fall(1.0, speed=speed)
    gain = gain_ahead(course(curve, curve, evaluations))
    assert gain == pytest.approx(curve(1.0) - curve(1.1), rel=0.2)


@pytest.mark.parametrize("action", ["Warn", "StopKeepBest"])
def test_only_the_action_stop_stops_and_names_what_is_kept(action: str) -> None:
    said = found(turning(1.0, 0.4, 1.5), fall(0.2), action=action)
    assert said is not None and said.finding == "Overfitting"
    assert said.stop == (action == "StopKeepBest")
    assert ("step 40 is kept" in said.message) == said.stop
    assert "since step 40 the held-out loss rose from 1 to 1.9" in said.message
    assert "lora.dropout" in said.message


def test_the_lowest_is_kept_also_where_it_is_no_improvement() -> None:
    """As the loop does it: minDelta is for patience alone."""
    points = [Point(step, loss) for step, loss in ((1, 2.0), (2, 1.99), (3, 2.1), (4, 2.1))]
    policy = Overfitting(action="StopKeepBest", min_delta=0.1)
    said = [
        judge(Course(points, policy, base=None, share=share, lora=False)) for share in (0.2, 1.0)
    ]
    assert [each.message.rpartition("; ")[2] for each in said if each] == [
        "stopped, step 2 is kept", "step 2 is kept",
    ]  # fmt: skip


def test_patience_counts_from_the_last_improvement_by_more_than_min_delta() -> None:
    losses = [2.0, 1.0, 0.99, 0.98, 0.97]
    points = [Point(n, loss, loss) for n, loss in enumerate(losses, 1)]

    def said(count: int, **policy: Any) -> str | None:
        settings = Overfitting.model_validate({"patience": 3, **policy})
        seen = judge(Course(points[:count], settings, base=None, share=0.3, lora=False))
        return seen.finding if seen else None

    assert said(5) is None
    assert [said(count, minDelta=0.05) for count in (3, 4, 5)] == [None, None, "NoImprovement"]


@pytest.mark.parametrize("also", [True, False], ids=["training rows too", "training rows fall"])
def test_a_loss_that_wanders_gets_twice_the_patience(also: bool) -> None:
    """Three evaluations on a bump: noise of the steps, if the training rows are on it, too."""
    held = [3.0, 2.5, 2.2, 2.22, 2.21, 2.23, 2.21, 2.22, 2.21]
    train = held if also else [3.0 - 0.2 * n for n in range(9)]
    points = [Point(*point) for point in zip(range(1, 10), held, train, strict=True)]
    said = [
        judge(Course(points[:count], Overfitting(), base=None, share=0.4, lora=False))
        for count in range(1, 10)
    ]
    alarms = [count for count, found in enumerate(said, 1) if found]
    assert alarms == ([9] if also else [6, 7, 8, 9])


def test_one_low_loss_on_training_rows_makes_a_jolt_no_overfitting() -> None:
    held, train = [2.0, 1.6, 1.7, 1.72, 1.65], [2.0, 1.5, 1.6, 1.6, 1.45]
    points = [Point(*point) for point in zip(range(1, 6), held, train, strict=True)]
    assert judge(Course(points, Overfitting(), base=None, share=0.4, lora=False)) is None


def test_noise_raises_few_alarms() -> None:
    """Good runs, each evaluation off by 1 %: at most one run in twenty is ever called ill."""
    random.seed(1)
    ill = 0
    for _ in range(200):
        low, speed = random.uniform(0.3, 2.0), random.uniform(5, 12)
        good = fall(low, speed=speed)
        noise = [random.gauss(1, 0.01) for _ in range(11)]
        noisy = partial(_times, good, noise)
        told = [
            found(noisy, good, evaluations, share=evaluations / 10) for evaluations in range(1, 11)
        ]
        ill += any(said and said.finding in ("Overfitting", "WorseThanBase") for said in told)
    assert ill <= 10


def _times(curve: Curve, noise: list[float], t: float) -> float:
    return curve(t) * noise[round(10 * t)]


def test_the_best_of_a_long_run_is_not_forgotten() -> None:
    """Its 50th evaluation is its best; 550 on a plateau later that one still is."""
    losses = [4.0 - 0.02 * n for n in range(50)] + [4.5] * 550
    curve: list[dict[str, Any]] = []
    best: dict[str, Any] | None = None
    for step, loss in enumerate(losses, 1):
        entry = {"step": step, "evalLoss": loss, "trainLoss": loss}
        best = entry if best is None or loss < best["evalLoss"] else best
        curve = remembered([*curve, entry], best)
        assert len(curve) <= REMEMBERED + 1
        assert curve[-1] == entry
    points = [Point(p["step"], p["evalLoss"], p["trainLoss"]) for p in curve]
    whole = Course(points, Overfitting(), base=4.4, share=0.9, lora=True)
    assert whole.lowest.step == points[whole.best].step == 50
    said = judge(whole)
    assert said is not None
    assert "3.02" in said.message
    assert "step 50" in said.message
