"""When the training state is saved if nobody has said after how many steps: by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 20
"""Between two saves passes at least so many times what one takes: it costs 5 % at most."""


class Interval:
    """Rank 0's clock decides; the ranks agree with the sums of the next step."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """``seconds`` since the last save, or since now. None: never due."""
        self._seconds = seconds
        self._clock = clock
        self._due = self._after(0.0)

    @property
    def over(self) -> bool:
        return self._due is not None and self._clock() >= self._due

    def saved(self, took: float) -> None:
        """The state was just saved, within ``took`` seconds."""
        self._due = self._after(took)

    def stop(self) -> None:
        """Never again in this attempt."""
        self._seconds = self._due = None

    def _after(self, took: float) -> float | None:
        if self._seconds is None:
            return None
        return self._clock() + max(self._seconds, SHARE * took)
