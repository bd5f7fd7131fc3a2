"""What all ranks do, and an error of one that is an error of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune_trainer.errors import (
    DiskFull,
    HardwareFault,
    StageError,
    failure_class,
    hint_of,
    message_of,
)
from finetune_trainer.gang import Gang


def together(gang: Gang, action: Callable[[], Any]) -> list[Any]:
    """Do it on every rank and exchange the results, by rank. Collective.

    Where a rank fails, all raise. They raise ``DiskFull`` all or none: what follows from a full
    volume they do together.
    """
    mine: tuple[Any, Exception | None]
    try:
        mine = action(), None
    except Exception as error:
        mine = None, error
    results = gang.gather((mine[0], _portable(mine[1])))
    faults = [fault for _, fault in results if fault is not None]
    if not faults:
        return [value for value, _ in results]
    worse = [fault for fault in faults if not isinstance(fault, DiskFull)]
    if not worse:
        raise faults[0] from mine[1]
    if mine[1] is not None and not isinstance(_portable(mine[1]), DiskFull):
        raise mine[1]
    raise worse[0]


def _portable(error: Exception | None) -> StageError | None:
    """The error as another rank can raise it, in the same class."""
    if error is None or isinstance(error, StageError):
        return error
    failure = failure_class(error)
    if failure is DiskFull.failure:
        return DiskFull(message_of(error), hint_of(error))
    kind = HardwareFault if failure is HardwareFault.failure else StageError
    return kind(f"a checkpoint cannot be read or written: {error}")
