"""Training ran out of memory: what would make it smaller."""

from __future__ import annotations

from ..api.types import Failure, OnOutOfMemory, Reason, StageName
from ..memory_ladder import WITHOUT_COPY, next_rung
from .facts import Facts

CUDA_OOM = "CudaOom"


def may_adapt(facts: Facts, failure: Failure) -> bool:
    """Whether less memory in use could help. The host's memory beside a GPU does not depend on the
    batch, only on the copy of the state."""
    if facts.spec.recovery.on_out_of_memory is OnOutOfMemory.FAIL:
        return False
    if failure.stage is not StageName.TRAIN:
        return False
    if failure.failure_class == CUDA_OOM:
        return True
    on_cpu = not facts.spec.workers.gpus_per_worker
    host = failure.failure_class == Reason.HOST_OOM
    return host and (on_cpu or _holds_a_copy(facts, failure))


def smaller(facts: Facts, failure: Failure) -> str | None:
    """What the next attempt changes, in words; None: nothing does, or would help."""
    if not may_adapt(facts, failure):
        return None
    if failure.failure_class == Reason.HOST_OOM and _holds_a_copy(facts, failure):
        return WITHOUT_COPY  # it costs time while saving; a smaller batch costs it all the time
    rung = next_rung(facts.known_plan.fit)
    return rung and rung[1]


def _holds_a_copy(facts: Facts, failure: Failure) -> bool:
    """The attempt had come to its first save: until then there is no copy."""
    every = facts.spec.checkpoint.every_steps
    if every is None or failure.step is None or not facts.known_plan.fit.checkpoint_copy:
        return False
    began = facts.status.resumed_from
    return failure.step // every > ((began and began.step) or 0) // every
