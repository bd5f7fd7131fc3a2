"""How many optimizer steps a job takes: the one formula behind plan, schedule and loop."""

from __future__ import annotations

import math

from finetune_trainer.config import RunConfig


def steps_per_epoch(packed_rows: int, global_batch_size: int) -> int:
    """Optimizer steps of one pass over the data; the last one may be smaller than the others."""
    return math.ceil(packed_rows / global_batch_size)


def planned_steps(config: RunConfig, packed_rows: int) -> int:
    """Optimizer steps of the whole job, from the real number of packed rows (at least 1).

    A fraction of an epoch is rounded up to whole steps.
    """
    if config.training.steps is not None:
        return config.training.steps
    epochs = 1.0 if config.training.epochs is None else config.training.epochs
    per_epoch = steps_per_epoch(packed_rows, config.global_batch_size)
    # Rounding first: 0.1 × 30 is 3.0000000000000004 and must not become 4 steps.
    return max(1, math.ceil(round(epochs * per_epoch, 6)))
