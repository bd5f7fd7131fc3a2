"""How many workers: the present number, and the others that may do."""

from __future__ import annotations

from .api.types import FineTuneJobSpec, Resolved
from .errors import Fault

ELASTIC = "spec.recovery.elastic"


def bounds(spec: FineTuneJobSpec) -> tuple[int, int]:
    """The fewest and the most workers that the spec allows."""
    elastic, count = spec.recovery.elastic, spec.workers.count
    return (elastic.min, elastic.max or count) if elastic else (count, count)


def fitting_sizes(spec: FineTuneJobSpec, total: int) -> tuple[int, ...]:
    """The allowed numbers of workers that can share the global batch of ``total``, in order."""
    low, high = bounds(spec)
    return tuple(count for count in range(low, high + 1) if total % _least(spec, count) == 0)


def misfits(spec: FineTuneJobSpec, total: int) -> tuple[Fault, ...]:
    """Bounds that cannot share the global batch. The API server sees only a size that is given."""
    if spec.recovery.elastic is None:
        return ()
    low, high = bounds(spec)
    fit = [str(n) for n in range(1, high + 1) if total % _least(spec, n) == 0]
    return tuple(
        Fault(
            f"{ELASTIC}.{name}",
            f"{count} workers cannot share the global batch of {total}: use one of "
            f"{', '.join(fit)}, or set spec.training.globalBatchSize before the job begins",
            reason="BatchDoesNotFit",
        )
        for name, count in (("min", low), ("max", high))
        if total % _least(spec, count)
    )


def present_workers(spec: FineTuneJobSpec, resolved: Resolved | None, total: int) -> int:
    """What the last resize made of ``workers.count``, unless that was changed since."""
    last = resolved.resizes[-1] if resolved and resolved.resizes else None
    count = spec.workers.count
    if last is None or not last.workers or last.wanted != count:
        return count
    return last.workers if total % _least(spec, last.workers) == 0 else count


def with_workers(spec: FineTuneJobSpec, count: int) -> FineTuneJobSpec:
    """The same wish for so many workers."""
    if count == spec.workers.count:
        return spec
    workers = spec.workers.model_copy(update={"count": count})
    return spec.model_copy(update={"workers": workers})


def _least(spec: FineTuneJobSpec, count: int) -> int:
    """The smallest global batch of so many workers."""
    return (spec.training.micro_batch_size or 1) * count * spec.workers.ranks_per_pod
