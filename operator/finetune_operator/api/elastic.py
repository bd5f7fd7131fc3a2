"""How many workers may do: ``spec.recovery.elastic``, and how it must fit the rest of the spec."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .batch_rules import batch_fits
from .schema import Rule, SpecModel
from .workers import MAX_WORKERS


class Elastic(SpecModel):
    """How many workers may do where `workers.count` cannot all be placed. The global batch stays as
    it is, so only numbers that divide it are used: globalBatchSize must be a multiple of
    microBatchSize (1 if absent) × workers × ranks per worker."""

    min: Annotated[int, Field(ge=1, le=MAX_WORKERS)]
    """The fewest workers that training goes on with; at most `workers.count`."""
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | None = None
    """The most that it grows to; at least `workers.count`, with which it begins. Absent:
    `workers.count`."""
    shrink_after_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """Once pods have had no node for so many seconds, or for `startDeadlineSeconds` where that is
    shorter, the next attempt does with as many workers as found one. Time in a queue does not
    count."""
    grow_after_seconds: Annotated[int, Field(ge=10, le=86_400)] = 1800
    """A gang that has trained for so many seconds without a break saves, and the next attempt tries
    to be larger. The time doubles with each growth that had to be taken back, up to a day."""
    max_resizes: Annotated[int, Field(ge=0, le=1000)] = 16
    """Changes of size of a job, both ways. A gang does not grow if that would be the last one."""


def _bound(spec: Any, name: str) -> int | None:
    elastic = spec.recovery.elastic
    return None if elastic is None else getattr(elastic, name)


_SHARED = "globalBatchSize must be a multiple of microBatchSize (1 if absent) × {} × ranks per "
_SHARED += "worker: the global batch stays the same at every size"

ELASTIC_RULES = (
    Rule(
        cel="!has(self.recovery.elastic) || self.recovery.elastic.min <= self.workers.count",
        message="must not be greater than workers.count",
        field_path=".recovery.elastic.min",
        check=lambda spec: (_bound(spec, "min") or 0) <= spec.workers.count,
    ),
    Rule(
        cel="!has(self.recovery.elastic) || !has(self.recovery.elastic.max)"
        " || self.recovery.elastic.max >= self.workers.count",
        message="must not be less than workers.count",
        field_path=".recovery.elastic.max",
        check=lambda spec: (_bound(spec, "max") or spec.workers.count) >= spec.workers.count,
    ),
    batch_fits(
        "self.recovery.elastic.min",
        lambda spec: _bound(spec, "min"),
        optional=("self.recovery.elastic",),
        message=_SHARED.format("elastic.min"),
        field_path=".recovery.elastic.min",
    ),
    batch_fits(
        "self.recovery.elastic.max",
        lambda spec: _bound(spec, "max"),
        optional=("self.recovery.elastic", "self.recovery.elastic.max"),
        message=_SHARED.format("elastic.max"),
        field_path=".recovery.elastic.max",
    ),
)
"""Rules of the spec as a whole."""
