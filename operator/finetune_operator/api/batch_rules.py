"""The batch equation as the API server checks it, where all its parts are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .schema import Rule

_RANKS = (
    "(self.workers.gpusPerWorker > 0 ? self.workers.gpusPerWorker"
    " : has(self.workers.ranksPerWorker) ? self.workers.ranksPerWorker : 1)"
)
_MICRO = "(has(self.training.microBatchSize) ? self.training.microBatchSize : 1)"


def batch_fits(
    workers: str, count: Callable[[Any], int | None], *, optional: tuple[str, ...] = (), **rule: Any
) -> Rule:
    """``globalBatchSize`` can be shared by so many workers, without a rest.

    ``workers``: their number in CEL; ``optional``: parts of that path that may be absent;
    ``count``: the same in Python, None where it is absent.
    """
    absent = "".join(f"!has({part}) || " for part in optional)
    least = f"({_MICRO} * {workers} * {_RANKS})"
    return Rule(
        # a number below its bound is refused by the bound; here it must not divide by nothing
        cel=f"{absent}!has(self.training.globalBatchSize) || {least} < 1"
        f" || self.training.globalBatchSize % {least} == 0",
        # no messageExpression with the numbers: the API server reckons any string(int) as
        # unbounded and refuses the CRD
        check=lambda spec: _divides(spec, count(spec)),
        **rule,
    )


def _divides(spec: Any, workers: int | None) -> bool:
    size = spec.training.global_batch_size
    if size is None or workers is None:
        return True
    micro = spec.training.micro_batch_size or 1
    least = micro * workers * spec.workers.ranks_per_pod
    return bool(least < 1 or size % least == 0)
