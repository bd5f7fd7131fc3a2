"""What can go wrong, as a tree.

FineTuneError
├── InvalidSpec          the wish itself cannot work: becomes a condition, no retry
└── ClusterError         a talk with the API server failed: the queue tries again
    ├── Unavailable      no answer, or a 5xx or 429 answer
    ├── Stale            the object changed since it was read: start the pass again
    ├── NotThere         the object is gone
    ├── Invalid          what was written breaks the schema of its CRD
    ├── Forbidden        the operator's role does not let it do this: becomes a condition
    └── Refused          the API server said no: becomes a condition, tried again slowly
        └── NameConflict the name belongs to an object that is not ours
"""

# ruff: noqa: N818 (a name that says what happened needs no suffix)
from __future__ import annotations

from dataclasses import dataclass


class FineTuneError(Exception):
    """Base of all own errors."""

    expected = False
    """True where a retry is normal business and no stack trace helps."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a spec."""

    field: str
    """Path in the FineTuneJob: ``spec.data.train[0].uri``."""
    message: str
    reason: str = "InvalidSpec"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidSpec(FineTuneError):
    """The spec cannot work; ``faults`` has all reasons at once."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class ClusterError(FineTuneError):
    """A request to the API server did not succeed."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ClusterError):
    """No answer, or an answer that says "later"."""

    expected = True


class Stale(ClusterError):
    """What we know is older than what the cluster has."""

    expected = True


class NotThere(ClusterError):
    """The object does not exist (any more)."""

    expected = True


class Invalid(ClusterError):
    """The API server's schema does not take what we want to store."""

    expected = True


class Forbidden(ClusterError):
    """The operator's role does not let it do this; the message says what is missing there."""

    reason = "Forbidden"


class Refused(ClusterError):
    """The API server refuses what we want to make."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NameConflict(Refused):
    """An object of that name exists and belongs to somebody else."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name} exists and does not belong to this FineTuneJob: "
            "delete it, or give the FineTuneJob another name",
            reason="NameConflict",
        )
