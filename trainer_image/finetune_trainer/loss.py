"""The loss: a sum over supervised tokens, never a mean, so that it can be added up anywhere.

A mean per micro-batch would weigh tokens by the company they keep. The loop divides once, by the
number of targets in the whole window over all ranks.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional

from finetune_trainer.batches import IGNORE, Batch
from finetune_trainer.fast.head import Head


def accepts_logits_to_keep(model: Any) -> bool:
    """Whether the model can leave out the head at positions that carry no loss."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def shifted_targets(labels: torch.Tensor) -> torch.Tensor:
    """int64 [B, T]: at t the token that position t has to predict, or ``IGNORE``."""
    targets = torch.full_like(labels, IGNORE)
    targets[:, :-1] = labels[:, 1:]
    return targets


def count_targets(batch: Batch) -> int:
    """How many targets the loss of the batch is a sum over."""
    return int((shifted_targets(batch.labels) != IGNORE).sum())


def loss_sum(
    model: Any, batch: Batch, *, logits_to_keep: bool, head: Head | None = None
) -> torch.Tensor:
    """Summed cross-entropy of the batch's targets in fp32; 0 (with a gradient) where it has none.

    ``position_ids`` without a mask and ``use_cache=False``: only so does the model keep the samples
    of a packed row apart. ``head``: of this model, to do without all logits at once.
    """
    if head is not None and head.usable:
        return head.loss_sum(*_before(head, model, batch))
    logits, targets = predictions(model, batch, logits_to_keep)
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


def losses_and_hits(
    model: Any, batch: Batch, *, logits_to_keep: bool, head: Head | None = None
) -> tuple[list[float], int]:
    """The same row by row, as numbers, and how many targets were the likeliest token."""
    if head is not None and head.usable:
        of_token, hits = head.losses_and_hits(*_before(head, model, batch))
        return _by_row(of_token, batch), hits
    logits, targets = predictions(model, batch, logits_to_keep)
    of_token = functional.cross_entropy(logits.float(), targets, reduction="none")
    return _by_row(of_token, batch), int((logits.argmax(-1) == targets).sum())


def _by_row(of_token: torch.Tensor, batch: Batch) -> list[float]:
    """Sums of the losses [N] of all targets of the batch."""
    in_row = (shifted_targets(batch.labels) != IGNORE).sum(1).tolist()
    of_row = torch.stack([part.sum(dtype=torch.float64) for part in torch.split(of_token, in_row)])
    found: list[float] = of_row.tolist()
    return found


def _before(head: Head, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [N, h] and int64 [N] of the N targets of the batch."""
    with head.left_out():
        return predictions(model, batch, logits_to_keep=True)


def predictions(
    model: Any, batch: Batch, logits_to_keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] and int64 [N] of the N targets of the batch."""
    targets = shifted_targets(batch.labels)
    keep = targets != IGNORE
    extra = {"logits_to_keep": keep} if logits_to_keep else {}
    logits = model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **extra
    ).logits
    if not logits_to_keep:
        logits = logits[keep]
    return logits, targets[keep]
