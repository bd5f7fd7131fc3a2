# Generated from operator/finetune_operator/api/signatures/signature.py: do not edit.
"""What a known failure looks like in a log, and how one is found in there.

Patterns are matched against single lines of bounded length, so that neither their cost nor their
reach depends on how much was printed. Of several that match, the one that stands first in its table
counts: causes stand before what follows from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_LINES = 200
"""Lines that are looked at, counted from the last: older ones had no hand in the end."""
MAX_LINE = 1024
SURVIVED = re.compile(r"\d{4}-\d\d-\d\d \S{8,14} (?:DEBUG|INFO|WARNING) finetune_trainer\.")
"""What the trainer says of faults that it goes on from, such as a step that is left out."""
UNFORESEEN = "Internal"
"""Class of a failure that says nothing about itself: any signature may refine it."""


class Signature(NamedTuple):
    """One known failure."""

    name: str
    failure_class: str
    """Class of such a failure, where its own says nothing."""
    pattern: str
    """Regular expression for one line; bounded repeats only."""
    cause: str
    """What happened, in one sentence."""
    hint: str
    """What to do: the field of the FineTuneJob or the object of the cluster to change."""
    source: str
    """Who prints it."""
    also: tuple[str, ...] = ()
    """Further classes that it may explain; it leaves them as they are."""

    def fits(self, failure_class: str) -> bool:
        """A failure that says what it is, is not told to be something else."""
        return failure_class in (UNFORESEEN, self.failure_class, *self.also)


def find(
    table: Iterable[Signature], lines: Sequence[str], failure_class: str = UNFORESEEN
) -> Signature | None:
    """The first signature of ``table`` that a line shows and that fits the failure's class.

    Indented lines are the source code in a traceback: it names failures that did not happen. What
    the trainer survived did happen, and is not what it died of.
    """
    bounded = [
        line[:MAX_LINE]
        for line in lines[-MAX_LINES:]
        if not line.startswith("    ") and not SURVIVED.match(line)
    ]
    for signature in table:
        if signature.fits(failure_class):
            # Compiled here and kept by re: who never fails never pays for it.
            pattern = re.compile(signature.pattern)
            if any(pattern.search(line) for line in bounded):
                return signature
    return None
