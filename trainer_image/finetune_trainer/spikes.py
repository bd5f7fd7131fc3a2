"""What a loss spike is: a loss far above those of the steps before it.

A step's loss is compared with the median of the last losses, in units of their spread: 1.4826
times the median absolute deviation, which is the standard deviation where the noise is normal.
Both ignore outliers among the losses themselves (Leys et al., "Detecting outliers", Journal of
Experimental Social Psychology 49, 2013). OLMo-core's ``SkipStepOptimizer`` leaves steps out by mean
and standard deviation over 128 steps, with a factor of 6; outliers widen that spread, so ours needs
a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
LEAST_SPREAD = 0.05
"""Nats per token. A curve may lie so still that its own noise says nothing: with the factor 8, a
jump of less than 0.4 is never a spike."""


@dataclass(frozen=True)
class Spike:
    """A loss above the limit that the losses before it set. All in nats per supervised token."""

    loss: float
    middle: float
    """Median of the losses before."""
    spread: float
    limit: float

    def __str__(self) -> str:
        return (
            f"the loss jumped to {self.loss:.4g} from about {self.middle:.4g} "
            f"(limit {self.limit:.4g}: {self.spread:.2g} is the spread)"
        )


def find_spike(loss: float, before: Sequence[float], *, window: int, factor: float) -> Spike | None:
    """Whether ``loss`` is a spike after the losses ``before``, the newest last.

    None until half a window of losses is known, and for a loss that is about as high as one of the
    last ``window`` steps had it: data of two kinds makes two kinds of losses, and neither is a
    spike.
    """
    recent = before[-window:]
    if len(recent) < max(2, window // 2) or not math.isfinite(loss):
        return None
    middle = median(recent)
    spread = max(NORMAL * median(abs(each - middle) for each in recent), LEAST_SPREAD)
    limit = max(middle + factor * spread, max(recent) + factor / 2 * spread)
    return Spike(loss, middle, spread, limit) if loss > limit else None
