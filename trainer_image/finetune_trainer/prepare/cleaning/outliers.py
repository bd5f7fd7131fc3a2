"""Numbers that stand far from the others, robustly: by the median, not by the mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIN_ROWS = 100
"""Among fewer rows nothing is called unusual."""
_DEVIATIONS = 5.0
_MIN_FACTOR = 4.0
_TO_SIGMA = 1.4826
"""From the median absolute deviation to the standard deviation of a normal distribution."""


def outlying(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of the positive values are at least 4 times above or below the median and, on a
    logarithmic scale, more than 5 robust standard deviations away from it."""
    if len(values) < MIN_ROWS:
        return np.zeros(len(values), dtype=bool)
    logs = np.log(values)
    away = np.abs(logs - np.median(logs))
    limit = max(_DEVIATIONS * _TO_SIGMA * float(np.median(away)), np.log(_MIN_FACTOR))
    return np.asarray(away > limit)
