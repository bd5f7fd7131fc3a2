"""How long a rank may work without a sign of life, by what it does."""

from __future__ import annotations

from collections import deque
from statistics import median

LONG = 6
"""Loading, saving and the first step, which may compile, get so many times as long."""
STEPS = 10
"""A rank that trains gets at least the time of so many of its steps."""


class Patience:
    """``seconds`` without a sign are enough while a rank trains or evaluates."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps: deque[float] = deque(maxlen=20)

    def took(self, seconds: float) -> None:
        """A step took so long."""
        self._steps.append(seconds)

    def of(self, phase: str) -> float:
        """Seconds."""
        if phase not in ("train", "eval") or not self._steps:
            return LONG * self._seconds
        return max(self._seconds, STEPS * median(self._steps))
