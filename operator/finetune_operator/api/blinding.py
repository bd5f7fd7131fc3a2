"""Which of two answers a rater is shown first. Operator and trainer draw the same, so that the draw
needs no place where a rater could see it."""

from __future__ import annotations

import hmac


def tuned_first(uid: str, seed: int, items: int) -> frozenset[int]:
    """Numbers, from 1, of the items whose answer A is the tuned model's: half of them, drawn by the
    job's UID and seed."""
    key = f"{uid}/{seed}".encode()

    def lot(number: int) -> bytes:
        return hmac.digest(key, str(number).encode(), "sha256")

    return frozenset(sorted(range(1, items + 1), key=lot)[: items // 2])
