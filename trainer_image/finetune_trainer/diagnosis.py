"""Where bad numbers come from: rank, micro-batch, parameter. Only asked when training ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.batches import Batch, Indices
from finetune_trainer.engine import Engine
from finetune_trainer.loss import loss_sum

MAX_ROWS = 8


@dataclass(frozen=True)
class Place:
    """The first bad number that a rank met in a window."""

    micro_batch: int
    """From 1."""
    rows: tuple[int, ...]
    """Packed rows of that micro-batch."""
    what: str


def not_finite(
    engine: Engine,
    passes: Iterable[tuple[Indices, Batch]],
    *,
    scale: float,
    logits_to_keep: bool,
) -> Place | None:
    """Go through this rank's micro-batches once more, with an eye on every gradient.

    Collective, and it leaves gradients behind: no step may follow. None where all numbers of this
    rank are finite: then it was another rank, or the sum.
    """
    outputs: list[str] = []
    gradients: list[str] = []
    hooks = [*_watch_outputs(engine, outputs), *_watch_gradients(engine, gradients)]
    found: Place | None = None
    try:
        for number, (rows, batch) in enumerate(passes, 1):
            outputs.clear()  # of a pass with a finite loss: a mask, say
            loss = loss_sum(engine, batch.to(engine.device), logits_to_keep=logits_to_keep)
            finite = _finite(loss)
            engine.backward(loss * scale)
            if found is None and (gradients or not finite):
                first = gradients if finite else outputs
                what = f"first in {first[0]}" if first else "in the loss alone"
                if (weight := _bad_weight(engine)) is not None:
                    what += f"; the weight {weight} itself is not finite"
                found = Place(number, tuple(int(row) for row in rows[:MAX_ROWS]), what)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _bad_weight(engine: Engine) -> str | None:
    parameters = engine.module.named_parameters()
    return next((name for name, p in parameters if not _finite(p)), None)


def _watch_outputs(engine: Engine, first: list[str]) -> list[Any]:
    """Note the first layer whose output is not finite. Layers are modules without parts."""

    def watching(name: str) -> Any:
        def look(_module: Any, _inputs: Any, output: Any) -> None:
            if not first and isinstance(output, torch.Tensor) and not _finite(output):
                first.append(f"the output of {name}")

        return look

    return [
        module.register_forward_hook(watching(name))
        for name, module in engine.module.named_modules()
        if not any(module.children())
    ]


def _watch_gradients(engine: Engine, first: list[str]) -> list[Any]:
    """Note the first parameter, in the order of the backward pass, with such a gradient."""

    def watching(name: str) -> Any:
        def look(gradient: torch.Tensor) -> None:
            if not first and not _finite(gradient):
                first.append(f"the gradient of {name}")

        return look

    return [
        parameter.register_hook(watching(name))
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    ]


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def highest(parts: Iterable[tuple[Indices, float, int]]) -> tuple[float, Place] | None:
    """The micro-batch of this rank with the highest loss, and that loss per target.

    ``parts`` are rows, summed loss and targets of each micro-batch.
    """
    means = [
        (summed / targets, Place(number, tuple(int(row) for row in rows[:MAX_ROWS]), ""))
        for number, (rows, summed, targets) in enumerate(parts, 1)
        if targets
    ]
    return max(means, key=lambda each: each[0], default=None)


def tell(places: list[Place | None]) -> str:
    """In words: the first rank that has a place."""
    for rank, place in enumerate(places):
        if place is not None:
            return f"; {_where(rank, place)}{', ' + place.what if place.what else ''}"
    return "; every rank's own numbers are finite, their sum is not"


def tell_highest(found: list[tuple[float, Place] | None]) -> str:
    """In words: the micro-batch with the highest loss over all ranks."""
    known = [(*each, rank) for rank, each in enumerate(found) if each is not None]
    if not known:
        return ""
    loss, place, rank = max(known, key=lambda each: each[0])
    return f"; {loss:.4g} in {_where(rank, place)}"


def _where(rank: int, place: Place) -> str:
    rows = f" (packed rows {', '.join(map(str, place.rows))})" if place.rows else ""
    return f"micro-batch {place.micro_batch} of rank {rank}{rows}"
