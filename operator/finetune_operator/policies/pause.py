"""How long the next attempt waits: a pause is for what fails again, not for what was hit once."""

from __future__ import annotations

from datetime import timedelta

from ..api.failures import Budget
from ..api.types import Backoff, Failure, Reason
from .budget import payer
from .facts import backoff

SIGKILL_EXIT = 137
"""What ended the container came from outside of it: a program cannot kill itself so by mistake,
and too little memory has a class of its own."""


def came_from_outside(failure: Failure) -> bool:
    """Whether the attempt was hit by something around the program."""
    if payer(failure) is Budget.INFRASTRUCTURE:
        return True
    unknown = failure.failure_class == Reason.UNKNOWN_FAILURE
    return unknown and failure.exit_code == SIGKILL_EXIT


def pause_before_restart(pauses: Backoff, failure: Failure, in_a_row: int) -> timedelta:
    """None before the first restart where the failure came from outside; from the second one in a
    row on, and after every failure of the program, it doubles from ``initial`` to ``max``.

    ``in_a_row``: failures of any kind since the stage last got further than ever. So a crash loop
    makes one restart without a pause, then waits as it would after a failure of the program.
    """
    if came_from_outside(failure):
        if in_a_row == 0:
            return timedelta(0)
        in_a_row -= 1
    return backoff(pauses.initial, in_a_row, pauses.max)
