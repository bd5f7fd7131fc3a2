"""Loss, perplexity and token accuracy on held-out rows: sums, one count, one division.

All ranks make the same number of forward passes (ZeRO 3 gathers weights in each of them), whatever
the number of rows; a rank without rows scores one that weighs nothing. Only a few numbers a pass
are kept, never logits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from finetune_trainer.batches import PackedRows, collate, share_of
from finetune_trainer.engine import Engine
from finetune_trainer.gang import Gang
from finetune_trainer.loss import loss_and_hits


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Nats per supervised token; NaN is shown, not hidden."""
    perplexity: float
    accuracy: float
    """Share of supervised tokens that the model found likeliest."""
    tokens: int
    seconds: float


def evaluate(
    engine: Engine,
    gang: Gang,
    rows: PackedRows,
    *,
    micro_batch_size: int,
    logits_to_keep: bool,
    on_pass: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    vote: Callable[[], float] = lambda: 0.0,
    voted: Callable[[float], None] = lambda votes: None,
) -> Evaluation | None:
    """Score all rows with the model as it is. Returns None when the ranks were asked to stop.

    ``on_pass`` is called after every forward pass, and ``voted`` with the sum over all ranks of
    ``vote``: a checkpoint in flight is published meanwhile. Leaves the random state as it was, so
    that how often a job evaluates does not change what it learns.
    """
    began = time.monotonic()
    share = share_of(
        np.arange(len(rows)),
        engine.costs.of(rows),
        rank=gang.place.rank,
        world_size=gang.place.world_size,
        micro_batch_size=micro_batch_size,
    )
    total, hits, tokens = 0.0, 0.0, 0
    devices = [engine.device] if engine.device.type == "cuda" else []
    engine.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            for numbers in share:
                batch = collate([rows.row(int(number)) for number in numbers])
                summed, met = loss_and_hits(
                    engine,
                    batch.to(engine.device),
                    logits_to_keep=logits_to_keep,
                    head=engine.head,
                )
                part, found, stopped, votes = gang.sums(summed, met, float(stop()), vote())
                total += part
                hits += found
                on_pass()
                voted(votes)
                if stopped:
                    return None
    finally:
        engine.train()
    tokens = int(rows.num_supervised.sum())
    loss, accuracy = (total / tokens, hits / tokens) if tokens else (math.nan, math.nan)
    return Evaluation(loss, perplexity(loss), accuracy, tokens, time.monotonic() - began)


def perplexity(loss: float) -> float:
    """exp(loss); infinity where that does not fit a double."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
