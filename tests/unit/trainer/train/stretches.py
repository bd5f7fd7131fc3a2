"""Parameters and gradients in the stretches that the ranks of a gang hold."""

from __future__ import annotations

from typing import Any

import torch

from finetune_trainer.engine import Engine


def pieces(engine: Engine, what: str) -> dict[str, dict[int, torch.Tensor]]:
    """This rank's stretches of a state by parameter name and first element."""
    found: dict[str, dict[int, torch.Tensor]] = {}
    for partition in engine.partitions():
        flat = partition.master if what == "master" else partition.state[what]
        for piece in partition.pieces if partition.mine else ():
            stretch = flat.view(-1)[piece.offset : piece.offset + piece.numel]
            found.setdefault(piece.name, {})[piece.start] = stretch.detach().clone()
    return found


def whole(results: list[dict[str, Any]], what: str) -> dict[str, torch.Tensor]:
    """Flattened parameters put together from the stretches of all ranks."""
    stretches: dict[str, dict[int, torch.Tensor]] = {}
    for result in results:
        for name, found in result[what].items():
            stretches.setdefault(name, {}).update(found)
    return {
        name: torch.cat([found[start] for start in sorted(found)])
        for name, found in stretches.items()
    }


def watch_first_gradient(engine: Engine) -> dict[str, dict[int, torch.Tensor]]:
    """Fills itself with the reduced gradient that the first optimizer step gets."""
    found: dict[str, dict[int, torch.Tensor]] = {}
    seen: set[int] = set()

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for partition in engine.partitions():
            if partition.master.grad is None and engine.stage:
                continue
            if id(partition.master) in seen and engine.stage:
                continue
            seen.add(id(partition.master))
            for piece in partition.pieces if partition.mine else ():
                gradient = (
                    partition.master.grad
                    if engine.stage
                    else dict(engine.module.named_parameters())[piece.name].grad
                )
                stretch = gradient.reshape(-1)[piece.offset : piece.offset + piece.numel]
                found.setdefault(piece.name, {}).setdefault(piece.start, stretch.detach().clone())

    engine.base_optimizer.register_step_pre_hook(hook)
    return found


def watch_rates(engine: Engine) -> list[float]:
    """Fills itself with the learning rate of each call of the optimizer."""
    rates: list[float] = []

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    engine.base_optimizer.register_step_pre_hook(hook)
    return rates
