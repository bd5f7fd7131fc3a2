"""Fields that the API server does not store: it prunes what the CRD in the cluster does not know.

A status that never becomes what was sent would be written again and again. So what is missing in
the answer to a write is left out of later ones, until it is time to try again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

FieldPath = tuple[str, ...]
EACH = "[]"
"""Stands in a path for the items of a list."""
TRY_AGAIN_AFTER = timedelta(minutes=10)
"""Somebody may have upgraded the CRD; one write tells."""


class DroppedFields:
    """What the answers to our writes lacked."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._paths: frozenset[FieldPath] = frozenset()
        self._told: frozenset[FieldPath] = frozenset()
        self._since = clock()

    @property
    def paths(self) -> frozenset[FieldPath]:
        if self._paths and self._clock() - self._since >= TRY_AGAIN_AFTER:
            self._paths = frozenset()
        return self._paths

    def learn(self, sent: Mapping[str, Any], stored: Mapping[str, Any]) -> frozenset[FieldPath]:
        """Compare a write with its answer. Returns what is to be told: paths that are news."""
        missing = dropped(sent, stored)
        if missing - self.paths:
            self._paths |= missing
            self._since = self._clock()
        news = missing - self._told
        self._told |= news
        return news


def dropped(sent: Any, stored: Any, at: FieldPath = ()) -> frozenset[FieldPath]:
    """Paths of ``sent`` that ``stored`` does not have; what was added there does not matter."""
    found: set[FieldPath] = set()
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        for name, value in sent.items():
            path = (*at, name)
            found |= dropped(value, stored[name], path) if name in stored else {path}
    if isinstance(sent, list | tuple) and isinstance(stored, list | tuple):
        for one, other in zip(sent, stored, strict=False):
            found |= dropped(one, other, (*at, EACH))
    return frozenset(found)


def kept(value: Any, paths: frozenset[FieldPath], at: FieldPath = ()) -> Any:
    """``value`` without these paths."""
    if not paths:
        return value
    if isinstance(value, Mapping):
        return {
            name: kept(part, paths, (*at, name))
            for name, part in value.items()
            if (*at, name) not in paths
        }
    if isinstance(value, list | tuple):
        return type(value)(kept(part, paths, (*at, EACH)) for part in value)
    return value
