"""Holding rows out for evaluation by the hash of their content.

A row's side depends on the fraction and on its key alone, which is the hash of its content or of
its group: it stays where it is when the data grows, and equal rows, or rows of one group, never
stand on both sides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BITS = 64


def held_out(keys: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """For each key (64 uniform bits of a hash) whether its row is held out.

    Small data may have no hash below the threshold; then the smallest one is held out, unless all
    rows are equal. ``fraction`` 0 holds out nothing; at least one distinct row stays for training.
    """
    if fraction <= 0 or not len(keys):
        return np.zeros(len(keys), dtype=bool)
    distinct = np.unique(keys)
    threshold = int(fraction * 2**_BITS)
    chosen = distinct[distinct < threshold]
    if not len(chosen) and len(distinct) > 1:
        chosen = distinct[:1]
    if len(chosen) == len(distinct):
        chosen = chosen[:-1]
    return np.isin(keys, chosen)
