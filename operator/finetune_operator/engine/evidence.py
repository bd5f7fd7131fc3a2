"""Last words of pods, kept for a while: the pods themselves vanish when their gang ends."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Evidence(Generic[V]):
    """Bounded: at most ``per_owner`` values for an owner, ``records`` in all and ``owners`` owners;
    the owners that were heard of longest ago go.

    ``per_owner`` is at least the size of a gang: survivors may tell before the one that they died
    of, and which of them that is shows only once all have told.
    """

    def __init__(self, *, per_owner: int, owners: int = 512, records: int = 8192) -> None:
        self._owners = owners
        self._per_owner = per_owner
        self._records = records
        self._values: OrderedDict[str, OrderedDict[str, tuple[int, V]]] = OrderedDict()
        self._count = 0

    def add(self, owner: str, name: str, value: V, version: int) -> None:
        """Keep ``value`` as the last word of ``name``, which belongs to ``owner``.

        ``version`` grows: what was read earlier and arrives late replaces nothing.
        """
        words = self._values.setdefault(owner, OrderedDict())
        self._values.move_to_end(owner)
        known = words.get(name)
        if known is None and len(words) < self._per_owner:
            self._count += 1
            words[name] = version, value
        elif known and known[0] <= version:
            words[name] = version, value
        while len(self._values) > 1 and (
            len(self._values) > self._owners or self._count > self._records
        ):
            self.forget(next(iter(self._values)))

    def of(self, owner: str) -> tuple[V, ...]:
        """What is kept for ``owner``, oldest first."""
        return tuple(value for _, value in self._values.get(owner, {}).values())

    def forget(self, owner: str) -> None:
        """Drop everything of ``owner``."""
        self._count -= len(self._values.pop(owner, ()))

    def __len__(self) -> int:
        return self._count
