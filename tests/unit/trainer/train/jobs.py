"""A small job of a test gang: its model, its rows, and a gang that is joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from unit.trainer.train.tiny import VOCABULARY, random_rows, run_config, tiny_llama, write_rows

from finetune_trainer import gang as gangs
from finetune_trainer.config import RunConfig
from finetune_trainer.engine import Engine
from finetune_trainer.gang import Gang
from finetune_trainer.model import load_model, load_quantized
from finetune_trainer.prepare.store import PackedDataset, Segment
from finetune_trainer.rendezvous import Place
from finetune_trainer.session import adapt
from finetune_trainer.zero_config import effective_stage, resolve_precision

TIMEOUT = 60.0
BAD_TOKEN = VOCABULARY - 1


@dataclass
class Job:
    """A small job; ``config`` are overrides of ``tiny.run_config``."""

    lengths: list[list[int]]
    eval_lengths: list[list[int]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    prompts: list[list[int]] = field(default_factory=list)
    """To be answered where ``config`` wants answers."""
    same_rows: bool = False
    """The held-out rows are those that are trained on."""
    supervised: float = 0.6
    first_gradient: bool = False
    bad_row: int | None = None
    """The only train row with the token ``BAD_TOKEN``."""
    silent_row: int | None = None
    """The only train row without a target."""
    general_lengths: list[list[int]] = field(default_factory=list)
    paired_lengths: list[list[int]] = field(default_factory=list)
    """Rows for the paired prompts of ``config``, two for each."""
    start: Path | None = None
    """Folder of the model to start from; None: the random one of ``model``."""
    bad: str = "output"
    """What that token does: see ``_make_bad``; ``surprise``: the row is noise among equal rows."""

    def run_config(self, world_size: int) -> RunConfig:
        workers = {"count": 1, "ranksPerWorker": world_size, "device": "CPU"}
        return RunConfig.model_validate(run_config(**{"workers": workers, **self.config}))


def joined(place: Place, *, collective_seconds: float = TIMEOUT) -> Gang:
    return gangs.join(
        place,
        torch.device("cpu"),
        rendezvous_seconds=TIMEOUT,
        collective_seconds=collective_seconds,
    )


def built(job: Job, config: RunConfig) -> Engine:
    precision = resolve_precision(config.training.precision, torch.device("cpu"))
    model = starting_model(job)
    if job.bad_row is not None:
        _make_bad(model, job.bad)
    torch.manual_seed(config.training.seed)
    return Engine(
        adapt(model, config),
        config.training,
        effective_stage(config.zero_stage, precision),
        precision,
        config.offload,
    )


def starting_model(job: Job) -> Any:
    """The model that the job trains, without an adapter. In 4 bits it is one of a folder."""
    if job.config.get("method", {}).get("lora", {}).get("quantization"):
        assert job.start is not None
        return load_quantized(job.start, torch.float32, torch.device("cpu"))
    return load_model(job.start, torch.float32) if job.start else tiny_llama(**job.model)


def _make_bad(model: Any, how: str) -> None:
    """Let ``BAD_TOKEN`` make numbers that are not finite.

    ``weight``: its embedding is NaN; ``output``: a layer's output; ``gradient``: that of a layer,
    behind a finite loss; ``loss``: the loss is infinite where it is the target, and every gradient
    finite.
    """
    met = [False]

    def watch(_module: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        met[0] = bool((inputs["input_ids"] == BAD_TOKEN).any())

    model.register_forward_pre_hook(watch, with_kwargs=True)
    layer = model.model.layers[1].mlp.act_fn
    if how == "weight":
        with torch.no_grad():
            model.model.embed_tokens.weight[BAD_TOKEN] = float("nan")
    if how == "output":
        layer.register_forward_hook(lambda _m, _i, out: out * float("nan") if met[0] else None)
    if how == "gradient":
        layer.register_full_backward_hook(
            lambda _m, grads, _o: (grads[0] * float("inf"),) if met[0] else None
        )
    if how == "loss":
        column = torch.zeros(VOCABULARY)
        column[BAD_TOKEN] = float("-inf")
        model.lm_head.register_forward_hook(lambda _m, _i, out: out + column if met[0] else None)


def rows_in(folder: Path, seed: int, lengths: list[list[int]], supervised: float) -> PackedDataset:
    write_rows(folder, random_rows(seed, lengths, supervised=supervised))
    return PackedDataset(folder)


def made_up(job: Job) -> list[list[Segment]]:
    """The rows to train on, without a bad one."""
    rows = random_rows(1, job.lengths, supervised=job.supervised)
    for segment in [] if job.silent_row is None else rows[job.silent_row]:
        segment.supervised[:] = 0
    return rows


def train_rows(folder: Path, job: Job) -> PackedDataset:
    """The rows to train on, one of them bad if the job says so."""
    rows = made_up(job)
    for number, row in enumerate(rows) if job.bad_row is not None else ():
        for segment in row:
            ids = segment.input_ids
            if job.bad == "surprise" and number != job.bad_row:
                ids[:] = np.arange(1, len(ids) + 1)
            elif job.bad != "surprise":
                ids[ids == BAD_TOKEN] = 1
                if number == job.bad_row:
                    ids[-1] = BAD_TOKEN
                    segment.supervised[-1] = 1
    write_rows(folder, rows)
    return PackedDataset(folder)
