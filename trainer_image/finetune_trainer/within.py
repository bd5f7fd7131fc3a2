"""Calls that touch the volume, from a process that must go on if the volume hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


def within(seconds: float, call: Callable[[], T], what: str) -> T | None:
    """What ``call`` returns; None: it takes longer than ``seconds``.

    Nothing can end a thread that waits for a disk, so it stays behind and keeps nobody waiting.
    ``what``: the place, for the log. Raises what ``call`` raises.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=f"within {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not returned:
        log.warning("%s: no answer within %.0f s", what, seconds)
        return None
    return returned[0]
