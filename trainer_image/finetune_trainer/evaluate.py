"""Loss, perplexity and token accuracy on held-out rows: sums, one count, one division.

The rows may be told apart by group: each has its own loss, and all of them one together.

All ranks make the same number of forward passes (ZeRO 3 gathers weights in each of them), whatever
the number of rows; a rank without rows scores one that weighs nothing. Only a few numbers a pass
are kept, never logits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from finetune_trainer.batches import Indices, PackedRows, collate, share_of
from finetune_trainer.engine import Engine
from finetune_trainer.gang import Gang
from finetune_trainer.loss import losses_and_hits


@dataclass(frozen=True)
class Part:
    """The rows of one group."""

    loss: float
    """Nats per supervised token; NaN where there is none."""
    tokens: int

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Nats per supervised token; NaN is shown, not hidden."""
    perplexity: float
    accuracy: float
    """Share of supervised tokens that the model found likeliest."""
    tokens: int
    seconds: float
    parts: tuple[Part, ...] = field(default=())
    """By group."""


def evaluate(
    engine: Engine,
    gang: Gang,
    rows: PackedRows,
    *,
    micro_batch_size: int,
    logits_to_keep: bool,
    groups: Indices | None = None,
    on_pass: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    vote: Callable[[], float] = lambda: 0.0,
    voted: Callable[[float], None] = lambda votes: None,
) -> Evaluation | None:
    """Score all rows with the model as it is. Returns None when the ranks were asked to stop.

    ``groups``: int64 [R], the group of each row, from 0; None: all rows are one.
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
    groups = np.zeros(len(rows), dtype=np.int64) if groups is None else groups
    totals, hits = np.zeros(int(groups.max(initial=0)) + 1), 0.0
    devices = [engine.device] if engine.device.type == "cuda" else []
    engine.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            for numbers in share:
                batch = collate([rows.row(int(number)) for number in numbers])
                losses, met = losses_and_hits(
                    engine,
                    batch.to(engine.device),
                    logits_to_keep=logits_to_keep,
                    head=engine.head,
                )
                # A rank without rows has scored one that weighs nothing and is of no group.
                mine = np.bincount(
                    groups[numbers], weights=losses[: len(numbers)], minlength=len(totals)
                )
                found, stopped, votes, *summed = gang.sums(met, float(stop()), vote(), *mine)
                totals += summed
                hits += found
                on_pass()
                voted(votes)
                if stopped:
                    return None
    finally:
        engine.train()
    counts = np.bincount(groups, weights=rows.num_supervised, minlength=len(totals)).astype(int)
    parts = tuple(
        Part(_share(float(total), count), count)
        for total, count in zip(totals, counts.tolist(), strict=True)
    )
    tokens = int(counts.sum())
    loss, accuracy = _share(float(totals.sum()), tokens), _share(hits, tokens)
    seconds = time.monotonic() - began
    return Evaluation(loss, perplexity(loss), accuracy, tokens, seconds, parts)


def _share(total: float, count: int) -> float:
    return total / count if count else math.nan


def perplexity(loss: float) -> float:
    """exp(loss); infinity where that does not fit a double."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
