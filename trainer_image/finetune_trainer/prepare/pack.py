"""Packing samples into rows: best-fit decreasing, deterministic, no sample split over rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of sample numbers whose lengths add up to at most ``capacity`` tokens each.

    Longest first, each into the fullest row that still holds it; equal lengths and equally full
    rows in order of their number. Takes O(n) big-integer steps: bit f of ``free`` says that some
    row has f tokens left, so the best fit is its lowest set bit at or above the length.
    Raises ``ValueError`` for a sample longer than a row.
    """
    rows: list[list[int]] = []
    rows_with: dict[int, deque[int]] = {}
    free = 0
    for sample in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[sample]
        if not 0 < length <= capacity:
            raise ValueError(f"sample {sample} of {length} tokens in rows of {capacity}")
        fitting = free >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_with[room].popleft()
            if not rows_with[room]:
                free &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(sample)
        if left := room - length:
            rows_with.setdefault(left, deque()).append(row)
            free |= 1 << left
    return rows


def pack_apart(lengths: Sequence[int], sources: Sequence[int], capacity: int) -> list[list[int]]:
    """The same for each source by itself, in the order of their numbers: no row mixes them."""
    rows: list[list[int]] = []
    for source in sorted(set(sources)):
        own = [sample for sample, of in enumerate(sources) if of == source]
        packed = pack([lengths[sample] for sample in own], capacity)
        rows += [[own[place] for place in row] for row in packed]
    return rows


def one_each(lengths: Sequence[int]) -> list[list[int]]:
    """A row for every sample, in order: ``packing: None``."""
    return [[sample] for sample in range(len(lengths))]
