"""The same training in plain torch, in one process, sample by sample: what the engine must match.

No packing, no accumulation, no ranks, no DeepSpeed: each sample is run by itself, the losses are
added up, and one backward pass over the whole window divides by its number of targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from unit.trainer.train.jobs import Job, made_up, starting_model

from finetune_trainer.batches import epoch_order
from finetune_trainer.config import RunConfig
from finetune_trainer.loop import seed_for_step
from finetune_trainer.schedule import learning_rate
from finetune_trainer.session import adapt


def train_plainly(
    job: Job, world_size: int, rewrite: Callable[[Any], None] = lambda _model: None
) -> dict[str, Any]:
    """Losses by step, first gradient and final weights by parameter name. A window without targets
    has the loss NaN and changes no weight.

    ``rewrite`` may put formulas of its own in place of the adapted model's. NEFTune: for one rank
    and micro-batches of one row, whose noise is drawn for the row and scaled sample by sample.
    """
    config = job.run_config(world_size)
    training = config.training
    rows = made_up(job)
    model = starting_model(job)
    torch.manual_seed(training.seed)
    model = adapt(model, _without_noise(config))
    rewrite(model)
    model.train()
    embed, alpha = model.get_input_embeddings(), training.neftune_noise_alpha
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = _optimizer(list(parameters.values()), training)
    size = config.global_batch_size
    windows = []
    epoch = 0
    while len(windows) < training.steps:
        order = epoch_order(training.seed, epoch, len(rows))
        windows += [order[at : at + size] for at in range(0, len(rows), size)]
        epoch += 1
    losses, first = [], {}
    for step, window in enumerate(windows[: training.steps]):
        count = 0
        total = torch.zeros((), dtype=torch.float64)
        optimizer.zero_grad()
        sums = []
        seed_for_step(training.seed, step, 0)
        for row in window:
            at, size_of_row = 0, sum(len(segment.input_ids) for segment in rows[row])
            drawn = torch.empty(1, size_of_row, embed.embedding_dim).uniform_(-1, 1)
            for segment in rows[row]:
                ids = torch.from_numpy(segment.input_ids.astype("int64"))[None]
                inputs = _embedded(embed, ids, drawn[:, at : at + ids.shape[1]], alpha)
                at += ids.shape[1]
                targets = torch.from_numpy(segment.supervised.astype("bool"))[1:]
                if not targets.any():
                    continue
                logits = model(inputs_embeds=inputs, use_cache=False).logits[0, :-1].float()
                loss = functional.cross_entropy(
                    logits[targets], ids[0, 1:][targets], reduction="sum"
                )
                sums.append(loss)
                total += loss.detach()
                count += int(targets.sum())
        if not sums:
            losses.append(math.nan)
            continue
        (torch.stack(sums).sum() / count).backward()
        losses.append(float(total) / count)
        if not first:
            first = {name: p.grad.detach().clone().view(-1) for name, p in parameters.items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                training.schedule, training.learning_rate, step, training.steps
            )
        optimizer.step()
    return {
        "losses": losses,
        "gradients": first,
        "masters": {name: p.detach().clone().view(-1) for name, p in parameters.items()},
    }


def _without_noise(config: RunConfig) -> RunConfig:
    """The noise is ours to add."""
    training = config.training.model_copy(update={"neftune_noise_alpha": None})
    return config.model_copy(update={"training": training})


def _embedded(embed: Any, ids: torch.Tensor, drawn: torch.Tensor, alpha: float | None) -> Any:
    """Of one sample: ``drawn`` is uniform from −1 to 1."""
    if alpha is None:
        return embed.weight[ids]
    return embed.weight[ids] + drawn * alpha / (ids.shape[1] * embed.embedding_dim) ** 0.5


def _optimizer(parameters: list[torch.nn.Parameter], training: Any) -> torch.optim.Optimizer:
    settings = training.optimizer
    if settings.type == "SGD":
        return torch.optim.SGD(parameters, lr=training.learning_rate)
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=0.0,
    )
