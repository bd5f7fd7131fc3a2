"""Last words of pods, kept for a while: the pods themselves vanish when their gang ends."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Evidence(Generic[V]):
    """Bounded: at most ``per_owner`` values for an owner, ``owners`` owners; the oldest go."""

    def __init__(self, *, owners: int = 512, per_owner: int = 16) -> None:
        self._owners = owners
        self._per_owner = per_owner
        self._values: OrderedDict[str, OrderedDict[str, tuple[int, V]]] = OrderedDict()

    def add(self, owner: str, name: str, value: V, version: int) -> None:
        """Keep ``value`` as the last word of ``name``, which belongs to ``owner``.

        The first words of an owner are the ones that explain its end, so a full owner takes no
        more names. ``version`` grows: what was read earlier and arrives late replaces nothing.
        """
        words = self._values.setdefault(owner, OrderedDict())
        self._values.move_to_end(owner)
        known = words.get(name)
        if (known is None and len(words) < self._per_owner) or (known and known[0] <= version):
            words[name] = version, value
        while len(self._values) > self._owners:
            self._values.popitem(last=False)

    def of(self, owner: str) -> tuple[V, ...]:
        """What is kept for ``owner``, oldest first."""
        return tuple(value for _, value in self._values.get(owner, {}).values())

    def forget(self, owner: str) -> None:
        """Drop everything of ``owner``."""
        self._values.pop(owner, None)

    def __len__(self) -> int:
        return sum(len(words) for words in self._values.values())
