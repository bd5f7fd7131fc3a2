"""The batch equation: global batch = micro-batch × accumulation × world size, always."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import lcm

from .api.types import FineTuneJobSpec
from .errors import Fault, InvalidSpec

LEAST_GLOBAL_BATCH = 16
TOKENS_PER_PASS_GPU = 8192
TOKENS_PER_PASS_CPU = 2048


@dataclass(frozen=True)
class Batch:
    """A solution of the equation."""

    micro: int
    """Sequences per rank and forward pass."""
    accumulation: int
    """Forward passes per optimizer step."""
    total: int
    """Sequences per optimizer step over all ranks."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, for what was not given."""

    def shared_by(self, world: int) -> Batch:
        """The same global batch for another number of ranks, which divides it. The micro-batch, on
        which a rank's memory depends, does not grow."""
        share = self.total // world
        micro = max(size for size in range(1, min(self.micro, share) + 1) if share % size == 0)
        return replace(self, micro=micro, accumulation=share // micro)


def solve_batch(
    spec: FineTuneJobSpec, settled: int | None = None, also: Iterable[int] = ()
) -> Batch:
    """Fill in what the spec leaves out. Raises ``InvalidSpec`` with what would fit.

    ``settled`` is the global batch size that a job has begun with: another number of workers does
    not change it. ``also``: other numbers of workers that are to fit, if that does not make the
    global batch more than twice as large.
    """
    world = spec.workers.world_size
    total = spec.training.global_batch_size or settled
    micro = spec.training.micro_batch_size
    if total is not None:
        _refuse_misfit(total, (micro or 1) * world, spec, resized=settled is not None)
    reasons = {}
    if micro is None:
        budget = TOKENS_PER_PASS_GPU if spec.workers.gpus_per_worker else TOKENS_PER_PASS_CPU
        at_most = max(1, budget // spec.data.sequence_length)
        share = -(-LEAST_GLOBAL_BATCH // world) if total is None else total // world
        micro = max(size for size in range(1, min(at_most, share) + 1) if share % size == 0)
        reasons["microBatchSize"] = f"at most {budget} tokens in a forward pass"
    if total is None:
        total = _multiple(micro * world)
        reasons["globalBatchSize"] = f"the smallest of at least {LEAST_GLOBAL_BATCH} that fits"
        for_all = _multiple(micro * lcm(world, *(n * spec.workers.ranks_per_pod for n in also)))
        if total < for_all <= 2 * total:
            total = for_all
            reasons["globalBatchSize"] += ", with each bound of recovery.elastic too"
    return Batch(micro, total // (micro * world), total, reasons)


def _multiple(unit: int) -> int:
    return -(-LEAST_GLOBAL_BATCH // unit) * unit


def _refuse_misfit(total: int, unit: int, spec: FineTuneJobSpec, *, resized: bool) -> None:
    if total % unit == 0:
        return
    if resized:
        one = unit // spec.workers.count
        fit = [str(count) for count in range(1, total // one + 1) if total % (one * count) == 0]
        raise InvalidSpec(
            (
                Fault(
                    "spec.workers.count",
                    f"{spec.workers.count} workers cannot share the global batch of {total} that "
                    f"this job began with: use {', '.join(fit)}",
                    reason="BatchDoesNotFit",
                ),
            )
        )
    below, above = total // unit * unit, (total // unit + 1) * unit
    nearest = above if below == 0 or above - total <= total - below else below
    workers = spec.workers
    raise InvalidSpec(
        (
            Fault(
                "spec.training.globalBatchSize",
                f"{total} is not a multiple of {unit} = microBatchSize "
                f"{spec.training.micro_batch_size or 1} × {workers.count} workers × "
                f"{workers.ranks_per_pod} ranks; the nearest that fits is {nearest}",
                reason="BatchDoesNotFit",
            ),
        )
    )
