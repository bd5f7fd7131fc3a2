"""The newest known version of each object of one kind, kept small, found by name or by job.

Versions are Kubernetes resourceVersions of one kind, which grow: an older version never replaces
a newer one, so the answers of own writes and the events of the watch may arrive in any order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

REMEMBERED_DELETIONS = 4096


class Key(NamedTuple):
    """Name of a FineTuneJob, the unit of all work."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Stored(Protocol):
    """What the store must know about an object. Equality must leave the version out."""

    @property
    def key(self) -> Key:
        """The FineTuneJob that it belongs to."""

    @property
    def name(self) -> str: ...

    @property
    def uid(self) -> str: ...

    @property
    def version(self) -> int: ...


S = TypeVar("S", bound=Stored)


class Store(Generic[S]):
    """Objects of one kind."""

    def __init__(self) -> None:
        self._by_key: dict[Key, dict[str, S]] = {}  # job → name → object
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._count = 0

    def put(self, item: S) -> bool:
        """Keep ``item`` unless a newer version is known. Returns whether what we see changed."""
        if item.uid in self._gone:
            return False
        siblings = self._by_key.setdefault(item.key, {})
        known = siblings.get(item.name)
        if known is not None and known.version >= item.version:
            return False
        siblings[item.name] = item
        self._count += known is None
        return known is None or known != item

    def remove(self, item: S) -> bool:
        """The object was deleted. Returns whether it was known."""
        self._gone[item.uid] = None
        if len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)
        siblings = self._by_key.get(item.key, {})
        known = siblings.get(item.name)
        if known is None or known.uid != item.uid:
            return False
        del siblings[item.name]
        self._count -= 1
        if not siblings:
            del self._by_key[item.key]
        return True

    def get(self, key: Key, name: str) -> S | None:
        """The object of that name that belongs to ``key``."""
        return self._by_key.get(key, {}).get(name)

    def of(self, key: Key) -> tuple[S, ...]:
        """All objects that belong to ``key``."""
        return tuple(self._by_key.get(key, {}).values())

    def __iter__(self) -> Iterator[S]:
        for siblings in tuple(self._by_key.values()):
            yield from tuple(siblings.values())

    def __len__(self) -> int:
        return self._count

    def synchronise(self, listed: Iterable[S], version: int) -> set[Key]:
        """Take over a complete list read at ``version``: repairs events that were lost.

        Objects that are not in the list and not newer than it are gone. Returns the keys of all
        jobs for which something changed.
        """
        changed: set[Key] = set()
        present: set[str] = set()
        for item in listed:
            present.add(item.uid)
            if self.put(item):
                changed.add(item.key)
        for item in self:
            if item.uid not in present and item.version <= version and self.remove(item):
                changed.add(item.key)
        return changed
