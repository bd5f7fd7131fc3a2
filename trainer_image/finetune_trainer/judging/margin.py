"""By how much a score has changed, against its bound."""

from __future__ import annotations

_ROUNDING = 1e-9
"""0.9 - 0.8 is less than 0.1 by some 1e-17: the bound is met all the same."""


def reaches(gain: float, bound: float) -> bool:
    """Whether a difference of two scores is at least ``bound``. NaN is not."""
    return gain >= bound - _ROUNDING
