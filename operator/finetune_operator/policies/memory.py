"""Training ran out of memory: what would make it smaller."""

from __future__ import annotations

from ..api.types import Failure, MemoryStatus, OnOutOfMemory, Reason, StageName
from ..memory_ladder import WITHOUT_COPY, Fit, next_rung
from ..preflight import host_is_short, predicted, tell_host
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
    if rung is None or _too_much_for_the_host(facts, rung[0]):
        return None
    return rung[1]


def foot(facts: Facts) -> str:
    """Why nothing is left to make smaller."""
    fit = facts.known_plan.fit
    if not fit.on_gpu:
        return "offload moves memory from GPUs to their host, and there is no GPU"
    rung = next_rung(fit)
    memory = rung and _too_much_for_the_host(facts, rung[0])
    if fit.quantized and rung is None:
        return "the optimizer is offloaded already, and quantized weights cannot be"
    if rung is None or memory is None:
        return "optimizer and parameters are offloaded already"
    return f"with {rung[1]} {tell_host(memory)}"


def _too_much_for_the_host(facts: Facts, fit: Fit) -> MemoryStatus | None:
    """The prediction, where the host is known not to hold what ``fit`` offloads."""
    if not fit.offloads:
        return None
    plan, status = facts.known_plan, facts.status
    memory = predicted(plan.spec, fit, status.model, status.data)
    return memory if memory and host_is_short(memory) else None


def _holds_a_copy(facts: Facts, failure: Failure) -> bool:
    """The attempt had come to its first save: until then there is no copy."""
    every = facts.spec.checkpoint.every_steps
    if every is None or failure.step is None or not facts.known_plan.fit.checkpoint_copy:
        return False
    began = facts.status.resumed_from
    return failure.step // every > ((began and began.step) or 0) // every
