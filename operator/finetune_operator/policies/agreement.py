"""How far raters agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is full agreement, 0 that of chance, less is
    worse. ``units`` are the values that each item was given, by any number of raters.

    None: no item has two values, or all values are the same, so that chance would agree, too.
    Source: K. Krippendorff, *Computing Krippendorff's Alpha-Reliability* (2011), section C.
    """
    disagreements = 0.0
    totals: Counter[Hashable] = Counter()
    for unit in units:
        count = len(unit)
        if count < 2:
            continue
        values = Counter(unit)
        totals.update(values)
        same = sum(n * (n - 1) for n in values.values())
        disagreements += (count * (count - 1) - same) / (count - 1)
    number = sum(totals.values())
    by_chance = number * number - sum(n * n for n in totals.values())
    return None if by_chance == 0 else 1 - (number - 1) * disagreements / by_chance
