"""Which budget pays for another attempt, and what is left of it."""

from __future__ import annotations

from ..api.failures import BY_NAME, Budget
from ..api.types import Failure, Reason, Restarts
from .facts import Facts

SEEN_FROM_OUTSIDE = {
    Reason.HOST_OOM.value: Budget.PROGRAM,
    Reason.EPHEMERAL_STORAGE_EXCEEDED.value: Budget.PROGRAM,
    Reason.UNKNOWN_FAILURE.value: Budget.PROGRAM,
    Reason.EVICTED.value: Budget.INFRASTRUCTURE,
    Reason.POD_LOST.value: Budget.INFRASTRUCTURE,
    Reason.NODE_LOST.value: Budget.INFRASTRUCTURE,
    Reason.JOB_VANISHED.value: Budget.INFRASTRUCTURE,
}
"""Classes that no exit code stands for."""

FIELDS = {
    Budget.PROGRAM: "spec.recovery.maxRestarts",
    Budget.INFRASTRUCTURE: "spec.recovery.maxInfrastructureRestarts",
}
CAUSES = {
    Budget.PROGRAM: "failures of the program",
    Budget.INFRASTRUCTURE: "failures around the program",
}


def payer(failure: Failure) -> Budget:
    """The budget that pays for a restart after this failure; ``NONE``: it would only repeat."""
    name = failure.failure_class or ""
    known = SEEN_FROM_OUTSIDE.get(name)
    if known is not None:
        return known
    return BY_NAME[name].budget if name in BY_NAME else Budget.NONE


def spent(facts: Facts, budget: Budget) -> int:
    """Restarts that the budget has paid for so far."""
    restarts = facts.status.restarts or Restarts()
    paid = restarts.program if budget is Budget.PROGRAM else restarts.infrastructure
    return paid or 0


def allowed(facts: Facts, budget: Budget) -> int:
    """Restarts that the budget pays for in all. The user may change it at any time."""
    recovery = facts.spec.recovery
    if budget is Budget.PROGRAM:
        return recovery.max_restarts
    return recovery.max_infrastructure_restarts
