"""A column of lists of numbers, read in place from a mapped Arrow table.

Much faster for single rows than the library's own access, which builds a table for each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow  # type: ignore[import-untyped]


class Lists:
    """The list of row i is ``lists[i]``: a view of the file, not to be written to."""

    def __init__(self, column: pyarrow.ChunkedArray) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, chunks)])
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """Row ``row``, 0 ≤ row < len. Raises ``IndexError`` otherwise."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        at = row - int(self._starts[chunk])
        first, last = self._offsets[chunk][at : at + 2]
        values: npt.NDArray[Any] = self._values[chunk][first:last]
        return values
