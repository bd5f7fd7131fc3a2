"""Do gradients reach every parameter that is to be trained?

Asked of a backward pass whose gradients are looked at as they arrive and then dropped: nothing is
accumulated, reduced or kept, so neither the optimizer nor the memory plan notices it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune_trainer.batches import Batch
from finetune_trainer.engine import Engine
from finetune_trainer.loss import loss_sum

_NAMED = 3
"""So many parameters are named in the sentence."""
_OPTIONAL = ".experts."
"""Weights that a router may leave out of a pass."""


def gradient_fault(engine: Engine, batch: Batch, *, logits_to_keep: bool) -> str | None:
    """What is wrong. The model must be in train mode, as activation checkpointing is off
    otherwise. Collective; takes random numbers."""
    wanted = engine.trainable
    frozen = [name for name, parameter in wanted.items() if not parameter.requires_grad]
    if frozen:
        return _sentence(frozen, len(wanted), "are frozen although the optimizer holds them")
    arrived: set[str] = set()
    hooks = [
        each.register_hook(_arrival(name, arrived))  # type: ignore[no-untyped-call]
        for name, each in wanted.items()
    ]
    try:
        # Not through the engine: its backward pass would reduce and keep what arrives.
        loss = loss_sum(
            engine.module,
            batch.to(engine.device),
            logits_to_keep=logits_to_keep,
            head=engine.head,
        )
        if loss.requires_grad:
            torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name in wanted if name not in arrived and _OPTIONAL not in name]
    return _sentence(missed, len(wanted), "get no gradient from the loss") if missed else None


def _arrival(name: str, arrived: set[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    def hook(gradient: torch.Tensor) -> torch.Tensor:
        arrived.add(name)
        # One number in its shape: what has been looked at need not be held until the end.
        return gradient.new_zeros(()).expand_as(gradient)

    return hook


def _sentence(names: list[str], of: int, what: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} of {of} trainable parameters {what}: {', '.join(names[:_NAMED])}{more}"
