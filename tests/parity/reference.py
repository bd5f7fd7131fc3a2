"""The same training in plain torch, in one process, sample by sample: what the engine must match.

No packing, no accumulation, no ranks, no DeepSpeed: each sample is run by itself, the losses are
added up, and one backward pass over the whole window divides by its number of targets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from unit.trainer.train.tiny import random_rows
from unit.trainer.train.workers import Job, starting_model

from finetune_trainer.batches import epoch_order
from finetune_trainer.schedule import learning_rate
from finetune_trainer.session import adapt


def train_plainly(job: Job, world_size: int) -> dict[str, Any]:
    """Losses by step, first gradient and final weights by parameter name."""
    config = job.run_config(world_size)
    training = config.training
    rows = random_rows(1, job.lengths, supervised=job.supervised)
    model = starting_model(job)
    torch.manual_seed(training.seed)
    model = adapt(model, config)
    model.train()
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
        for row in window:
            for segment in rows[row]:
                ids = torch.from_numpy(segment.input_ids.astype("int64"))[None]
                targets = torch.from_numpy(segment.supervised.astype("bool"))[1:]
                if not targets.any():
                    continue
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                loss = functional.cross_entropy(
                    logits[targets], ids[0, 1:][targets], reduction="sum"
                )
                sums.append(loss)
                total += loss.detach()
                count += int(targets.sum())
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
