"""Do packed samples stay apart in this model, and lose what they lose alone?

Isolation rests on ``position_ids`` that start again with each sample. A model that does not look at
them (recurrent layers, ALiBi) mixes neighbours in silence, and nothing in the loss would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from finetune_trainer.batches import Batch, collate
from finetune_trainer.engine import Engine
from finetune_trainer.loss import count_targets, loss_sum, predictions
from finetune_trainer.self_test.pieces import Piece, alone, other, packed, untrained
from finetune_trainer.zero_config import Precision

SAME_SHAPE: dict[Precision, float] = {"FP32": 1e-5, "BF16": 2e-3, "FP16": 2e-3}
"""Of a token, relative to the mean, between rows that differ in what must not matter: hardly any
noise."""
OTHER_SHAPE: dict[Precision, float] = {"FP32": 1e-4, "BF16": 2e-2, "FP16": 2e-2}
"""Of the mean, relative, between rows of other lengths: other kernels, other order of sums."""


def packing_fault(
    engine: Engine,
    pieces: Sequence[Piece],
    *,
    logits_to_keep: bool,
    beat: Callable[[], None] = lambda: None,
) -> tuple[str | None, dict[str, float]]:
    """What is wrong, and the losses per target that were compared. Collective.

    Losses that are not finite say nothing about packing: they are left to training.
    """
    rest = pieces[1:]
    with torch.no_grad():
        told = {}
        for name, batch in (("alone", alone(pieces)), ("packed", collate([packed(pieces)]))):
            summed = loss_sum(
                engine,
                batch.to(engine.device),
                logits_to_keep=logits_to_keep,
                head=engine.head,
            )
            told[name] = float(summed) / count_targets(batch)
            beat()
        behind = _losses(
            engine,
            # Two rows in one batch: there are kernels that keep samples apart in one row only.
            collate([packed([each, *rest]) for each in (untrained(pieces[0]), other(pieces[0]))]),
            logits_to_keep,
        ).reshape(2, -1)
        beat()
    if not all(map(math.isfinite, told.values())):
        return None, told
    if behind.numel():
        worst = int((behind[0] - behind[1]).abs().argmax())
        one, another = behind[:, worst].tolist()
    else:  # the only piece
        one = another = 0.0
    if abs(one - another) > SAME_SHAPE[engine.precision] * told["alone"]:
        return (
            "spec.data.packing: this model does not keep packed samples apart: a token's loss is "
            f"{one:.6g} behind one neighbour and {another:.6g} behind another"
        ), told
    if abs(told["packed"] - told["alone"]) > OTHER_SHAPE[engine.precision] * abs(told["alone"]):
        return (
            f"spec.data.packing: packed samples lose {told['packed']:.6g} per token, and each by "
            f"itself {told['alone']:.6g}"
        ), told
    return None, told


def _losses(engine: Engine, batch: Batch, logits_to_keep: bool) -> torch.Tensor:
    """float64 [N] on the host: the loss of each target."""
    logits, targets = predictions(engine, batch.to(engine.device), logits_to_keep)
    return functional.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
