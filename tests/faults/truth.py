"""The invariants of the fault matrix, over whatever tests do in a namespace."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults import audit
from faults.audit import Raw
from faults.history import Life, lives
from faults.invariants import Place, violations
from faults.site import KINDS, Site

SETTLE_SECONDS = 60
"""So long the garbage collector may take for what has lost its owner."""


@contextmanager
def watched(log: Path, site: Site, operator: str) -> Iterator[None]:
    """Every FineTuneJob that is created in the site meanwhile keeps the invariants.

    operator: user name of the one operator of this namespace.

    Raises:
        AssertionError: with one sentence for each violation.
    """
    since = log.stat().st_size
    yield
    time.sleep(0.3)  # a request is answered a moment before it is in the log
    led = lives(audit.writes(log, since, {site.namespace}))
    found = settled(led, lambda: Place(operator, listing([site]), gives_up=True))
    assert not found, "\n".join(found)


def settled(led: list[Life], place: Callable[[], Place]) -> list[str]:
    """Violations of any invariant; what may take a moment gets it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = violations(led, place())
        if time.monotonic() > deadline or not any("outlived" in text for text in found):
            return found
        time.sleep(2)


def listing(sites: Collection[Site]) -> list[Raw]:
    return [raw for site in sites for kind in KINDS for raw in site.list(kind)]
