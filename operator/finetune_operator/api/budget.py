"""What a job may use at most: ``spec.budget``."""

from __future__ import annotations

from typing import Annotated

from .schema import DecimalRange, SpecModel

MAX_GPU_HOURS = 1e7

GpuHours = Annotated[str, DecimalRange(0, MAX_GPU_HOURS, low_open=True, example="100")]


class UsageLimit(SpecModel):
    """What the job may use at most."""

    gpu_hours: GpuHours | None = None
    """Hours in which training pods hold GPUs, times their GPUs, over all attempts, as counted in
    `status.goodput.gpuSeconds`. Once they are used up, training saves a checkpoint, gives its
    pods back and waits until this is raised. Only for jobs that train on GPUs. Absent: no limit,
    but for the namespace's own (ConfigMap `finetune-budget`, key `gpuHours`)."""
