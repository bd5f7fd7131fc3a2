"""The learning rate as a pure function of the step, so that a resume cannot make it jump.

The loop sets the value before each optimizer step and gives the engine no scheduler: one integer,
the step, decides the data position and the learning rate alike, on every rank, at every world size.
"""

from __future__ import annotations

import math

from finetune_trainer.config import Schedule


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """Steps below the peak at the start, rounded up; at least the last step is none of them."""
    # 0.07 of 100 steps are 7, not 8: the product has noise in its last digits.
    return min(math.ceil(round(schedule.warmup_fraction * steps, 6)), steps - 1)


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Learning rate of optimizer step ``step`` (0-based) of ``steps``.

    Rises linearly to ``peak``, then falls so that the last planned step has exactly
    ``final_fraction × peak`` (``Constant`` stays at the peak). A job of one step uses the peak.
    """
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.type == "Constant" or steps == 1:
        return peak
    last = steps - 1
    if step >= last:
        return peak * schedule.final_fraction
    progress = (step - warmup) / (last - warmup)
    remaining = (
        1 - progress if schedule.type == "Linear" else (1 + math.cos(math.pi * progress)) / 2
    )
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * remaining)
