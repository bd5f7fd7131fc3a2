"""Training ran out of memory: what would make it smaller."""

from __future__ import annotations

from ..api.types import Failure, OnOutOfMemory, Reason, StageName
from ..memory_ladder import next_rung
from .facts import Facts

CUDA_OOM = "CudaOom"


def may_adapt(facts: Facts, failure: Failure) -> bool:
    """Whether a smaller training could help. The host's memory beside a GPU does not depend on
    the batch."""
    if facts.spec.recovery.on_out_of_memory is OnOutOfMemory.FAIL:
        return False
    if failure.stage is not StageName.TRAIN:
        return False
    on_cpu = not facts.spec.workers.gpus_per_worker
    return failure.failure_class == CUDA_OOM or (
        on_cpu and failure.failure_class == Reason.HOST_OOM
    )


def smaller(facts: Facts, failure: Failure) -> str | None:
    """What the next attempt changes, in words; None: nothing does, or would help."""
    rung = next_rung(facts.known_plan.fit) if may_adapt(facts, failure) else None
    return rung and rung[1]
