"""Do packed samples stay apart in this model? Asked of the loaded model before the first step.

Isolation rests on ``position_ids`` that start again with each sample. A model that does not look at
them (recurrent layers, ALiBi) mixes neighbours in silence, and nothing in the loss would tell.
"""

from __future__ import annotations

import torch

from finetune_trainer.batches import IGNORE, Batch, PackedRow, PackedRows
from finetune_trainer.engine import Engine
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.loss import loss_sum
from finetune_trainer.zero_config import Precision

LONGEST = 16
"""Tokens of each of the two samples: enough to mix, few enough to cost nothing."""
TOLERANCE: dict[Precision, float] = {"FP32": 1e-5, "BF16": 2e-3, "FP16": 2e-3}
"""Relative to the loss: what summation order may change."""


def require_isolation(engine: Engine, rows: PackedRows, *, logits_to_keep: bool) -> None:
    """Compare a sample's loss behind two different neighbours; collective, on the same row.

    Does nothing where no row holds two samples. Raises ``ConfigInvalid`` where the losses differ.
    """
    pair = _first_pair(rows)
    if pair is None:
        return
    engine.eval()
    try:
        with torch.no_grad():
            behind = [
                float(
                    loss_sum(
                        engine,
                        _packed(neighbour, pair[1]).to(engine.device),
                        logits_to_keep=logits_to_keep,
                    )
                )
                for neighbour in (pair[0], pair[0].flip(0).roll(1))
            ]
    finally:
        engine.train()
    if abs(behind[0] - behind[1]) > TOLERANCE[engine.precision] * abs(behind[0]):
        raise ConfigInvalid(
            "spec.data.packing: this model does not keep packed samples apart: a sample's loss is "
            f"{behind[0]:.6g} behind one neighbour and {behind[1]:.6g} behind another",
            hint='set spec.data.packing to "None" for this model',
        )


def _first_pair(rows: PackedRows) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The beginnings of the first two samples that share a row."""
    for index in range(len(rows)):
        row: PackedRow = rows.row(index)
        starts = (row.position_ids == 0).nonzero().flatten().tolist()
        if len(starts) > 1:
            second, end = starts[1], (starts[2] if len(starts) > 2 else len(row.input_ids))
            if second > 1 and end - second > 1:
                return (
                    row.input_ids[:second][:LONGEST],
                    row.input_ids[second:end][:LONGEST],
                )
    return None


def _packed(first: torch.Tensor, second: torch.Tensor) -> Batch:
    """Both in one row; the targets are those of the second."""
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])
    labels = torch.cat([torch.full_like(first, IGNORE), second])
    labels[len(first)] = IGNORE  # its first token has nothing before it
    return Batch(torch.cat([first, second])[None], positions[None], labels[None])
