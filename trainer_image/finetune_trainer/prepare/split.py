"""Holding rows out for evaluation by the hash of their content.

A row's side depends on its content and the fraction alone: it stays where it is when the data
grows, and equal rows never stand on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

_BITS = 64


def held_out(keys: Sequence[str], fraction: float) -> list[bool]:
    """For each content key (hexadecimal, uniform) whether its row is held out.

    Small data may have no hash below the threshold; then the smallest one is held out, unless all
    rows are equal. ``fraction`` 0 holds out nothing; at least one distinct row stays for training.
    """
    if fraction <= 0 or not keys:
        return [False] * len(keys)
    distinct = sorted(set(keys))
    threshold = int(fraction * 2**_BITS)
    chosen = {key for key in distinct if int(key[: _BITS // 4], 16) < threshold}
    if not chosen and len(distinct) > 1:
        chosen = {distinct[0]}
    if len(chosen) == len(distinct):
        chosen.discard(distinct[-1])
    return [key in chosen for key in keys]
