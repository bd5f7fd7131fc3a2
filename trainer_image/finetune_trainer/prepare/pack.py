"""Packing samples into rows: best-fit decreasing, deterministic, no sample split over rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_AT_ONCE = 8192
Lengths = Sequence[int] | npt.NDArray[np.int64]


def pack(lengths: Lengths, capacity: int) -> list[list[int]]:
    """Rows of sample numbers whose lengths add up to at most ``capacity`` tokens each.

    Longest first, each into the fullest row that still holds it; equal lengths and equally full
    rows in order of their number. Takes O(n) big-integer steps: bit f of ``free`` says that some
    row has f tokens left, so the best fit is its lowest set bit at or above the length.
    Raises ``ValueError`` for a sample longer than a row.
    """
    rows: list[list[int]] = []
    rows_with: dict[int, deque[int]] = {}
    free = 0
    for sample, length in _longest_first(lengths):
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


def pack_apart(lengths: Lengths, sources: Sequence[int], capacity: int) -> list[list[int]]:
    """The same for each source by itself, in the order of their numbers: no row mixes them."""
    rows: list[list[int]] = []
    for source in sorted(set(sources)):
        own = [sample for sample, of in enumerate(sources) if of == source]
        packed = pack([lengths[sample] for sample in own], capacity)
        rows += [[own[place] for place in row] for row in packed]
    return rows


def _longest_first(lengths: Lengths) -> Iterator[tuple[int, int]]:
    """(sample, length), some thousand at a time: Python's numbers take five times the room."""
    array: npt.NDArray[Any] = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-array, kind="stable")
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        yield from zip(part.tolist(), array[part].tolist(), strict=True)


def one_each(lengths: Lengths) -> list[list[int]]:
    """A row for every sample, in order: ``packing: None``."""
    return [[sample] for sample in range(len(lengths))]
