"""Whether exported weights behave like the ones that they were made from."""

from __future__ import annotations

import logging

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.errors import StageError

log = logging.getLogger(__name__)

MAX_LOGIT_DIFFERENCE = 1e-3
"""For weights stored as fp32."""
_SHARES = {"float32": 0.0, "q8_0": 0.1}
_SHARE_OF_16_BITS = 0.05
"""Of the range of the logits, by which rounding to fewer bits may move them."""
_HIDDEN = 0.25
"""Of rounding's effect on the logits: a training that did less cannot be looked for under it."""
BUG = "the trained weights stay in the attempt's folder; report this as a bug"


class ExportMismatchError(StageError):
    """The exported weights do not behave like the trained ones."""


def logits(model: PreTrainedModel | PeftModel, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    """fp32 [1, T, V] of each prompt, int64 [1, T]."""
    with torch.no_grad():
        return [model(input_ids=ids, use_cache=False).logits.float() for ids in prompts]


def most(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest difference of logits."""
    return max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))


def compare(
    expected: list[torch.Tensor], found: list[torch.Tensor], precision: str, what: str
) -> float:
    """`most`. ``precision``: of the weights.

    Raises ``ExportMismatchError`` where it is more than rounding explains.
    """
    difference = most(expected, found)
    spread = max(float(one.max() - one.min()) for one in expected)
    limit = _SHARES.get(precision, _SHARE_OF_16_BITS) * spread or MAX_LOGIT_DIFFERENCE
    log.info("%s: largest logit difference after reload %.2e (limit %.2e)", what, difference, limit)
    # Not "difference > limit": NaN must fail as well.
    if not difference <= limit:
        raise ExportMismatchError(
            f"the {what}'s logits differ by {difference:.3g} from the trained ones "
            f"(limit {limit:.3g})",
            BUG,
        )
    return difference


def require_learnt(
    base: list[torch.Tensor], expected: list[torch.Tensor], found: list[torch.Tensor], what: str
) -> None:
    """Whether weights of 16 bits still have what an adapter learnt, however little it moved.

    Rounding may move logits further than a short training does, but in no direction of its own: of
    the way from the base model's logits to the trained ones, the found ones must have gone more
    than half. Raises ``ExportMismatchError``.
    """
    flat = [torch.cat([each.flatten() for each in some]) for some in (base, expected, found)]
    learnt, moved, off = flat[1] - flat[0], flat[2] - flat[0], flat[2] - flat[1]
    if learnt.norm() <= _HIDDEN * off.norm():
        return
    share = float(learnt @ moved / (learnt @ learnt))
    log.info("%s: has %.1f %% of what the adapter changed", what, 100 * share)
    if not share > 0.5:
        raise ExportMismatchError(
            f"the {what} has {share:.0%} of what the adapter changed in the logits", BUG
        )
