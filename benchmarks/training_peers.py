"""One rank of a peer: ``python -m benchmarks.training_peers SETTINGS``, with RANK and the like set.

Hugging Face's Trainer on DeepSpeed in one of its modes, or a loop by hand on torch's DDP. It writes
``rank-<n>.json`` beside its settings: seconds, non-padding tokens and loss of every optimizer step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import distributed
from torch.nn import functional

from benchmarks import training_data
from benchmarks.training_data import Samples
from finetune_trainer import engine
from finetune_trainer.config import Lora
from finetune_trainer.model import load_model, lora_config

IGNORE = -100
LEARNING_RATE = 1e-4
MODES = {"plain": "random", "group_by_length": "group_by_length", "packing": "random",
         "batch_rebalance": "batch_rebalance"}  # fmt: skip
"""Modes of Hugging Face's Trainer: how each draws its samples."""


@dataclass(frozen=True)
class Settings:
    """What a peer trains, and how."""

    peer: str
    """A mode of `MODES`, or ``hand``."""
    model: str
    samples: str
    lora: dict[str, Any] | None
    per_step: int
    """Samples of an optimizer step, over both ranks."""
    micro: int
    """Samples of a micro-batch of one rank."""
    steps: int
    save_every: int = 0
    """Steps between two checkpoints of the Trainer; 0: it makes none."""


@dataclass
class Told:
    """Of one rank."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    """When each step was over, in Unix seconds; of the Trainer alone."""
    saved: list[dict[str, float]] = field(default_factory=list)
    """Of each of its checkpoints: ``step``, ``at`` (when it was there), ``seconds``, ``bytes``."""


def main(path: Path) -> None:
    settings = Settings(**json.loads(path.read_text()))
    distributed.init_process_group("gloo", timeout=timedelta(minutes=20))
    torch.manual_seed(0)
    samples = training_data.load(Path(settings.samples))
    model: Any = load_model(Path(settings.model), torch.float32, dropout=0.0)
    if settings.lora is not None:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(Lora.model_validate(settings.lora)))
    told = (by_hand if settings.peer == "hand" else by_trainer)(settings, samples, model)
    rank = distributed.get_rank()
    path.with_name(f"rank-{rank}.json").write_text(json.dumps(asdict(told)))
    distributed.barrier()


def by_trainer(settings: Settings, samples: Samples, model: Any) -> Told:
    engine.init_distributed(timedelta(minutes=20))  # with the ops that are built, as ours
    world = distributed.get_world_size()
    arguments = transformers.TrainingArguments(
        output_dir=os.environ["TMPDIR"],
        use_cpu=True,
        deepspeed=_deepspeed(),
        ddp_backend="gloo",
        per_device_train_batch_size=settings.micro,
        gradient_accumulation_steps=settings.per_step // (settings.micro * world),
        max_steps=settings.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        train_sampling_strategy=MODES[settings.peer],
        length_column_name="length",
        logging_steps=1,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 500,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return trained(arguments, samples, model, flattened=settings.peer == "packing")


def trained(
    arguments: transformers.TrainingArguments, samples: Samples, model: Any, *, flattened: bool
) -> Told:
    """What one rank of Hugging Face's Trainer told; ``flattened``: batches without padding."""
    told = Told()
    counts: list[Any] = []

    class Counting(transformers.Trainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            mask = inputs.get("attention_mask")
            counts[-1] += inputs["input_ids"].numel() if mask is None else mask.sum()
            return super().training_step(model, inputs, *rest, **more)

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            counts.append(0)
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            told.seconds.append(time.monotonic() - self.began)
            told.ended.append(time.time())

        def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            took = (now := time.time()) - told.ended[-1]
            told.saved.append(
                {"step": state.global_step, "at": now, "seconds": took, "bytes": size}
            )

        def on_log(self, *_: Any, **given: Any) -> None:
            told.losses += [given["logs"]["loss"]] if "loss" in given["logs"] else []

    flatten: Any = transformers.DataCollatorWithFlattening  # has no types
    trainer: Any = Counting(
        model=model,
        args=arguments,
        train_dataset=_dataset(samples),
        data_collator=flatten() if flattened else padded,
        callbacks=[Clock()],
    )
    trainer.train()
    told.tokens = [int(count) for count in counts]  # a GPU would have waited for each
    return told


def _dataset(samples: Samples) -> Any:
    import datasets  # type: ignore[import-untyped]

    def rows() -> Iterator[dict[str, Any]]:
        for number, length in enumerate(samples.lengths):
            ids, targets = samples.sample(number)
            labels = np.where(targets == 1, ids, IGNORE)
            yield {"input_ids": ids.tolist(), "labels": labels.tolist(), "length": length}

    return datasets.Dataset.from_list(list(rows()))


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows of one batch, as long as the longest of them."""
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, by: int) -> torch.Tensor:
        return torch.tensor([row[name] + [by] * (longest - len(row[name])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": filled("input_ids", 0),
        "labels": filled("labels", IGNORE),
        "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
    }


def _deepspeed() -> dict[str, Any]:
    """As ours: ZeRO-2, and clipping."""
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
        },
    }


def by_hand(settings: Settings, samples: Samples, model: Any) -> Told:
    """Each sample in a row of its own, ranks balanced by tokens, the head at targets alone."""
    told, rank, world = Told(), distributed.get_rank(), distributed.get_world_size()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    parallel: Any = torch.nn.parallel.DistributedDataParallel(model)
    parallel.train()
    order = np.random.default_rng(0).permutation(len(samples.lengths))
    for step in range(settings.steps):
        window = [int(n) for n in order[step * settings.per_step : (step + 1) * settings.per_step]]
        targets = sum(int(samples.sample(n)[1][1:].sum()) for n in window)
        began = time.monotonic()
        mine = dealt(window, samples.lengths, world)[rank]
        summed = 0.0
        for place, number in enumerate(mine, 1):
            ids, supervised = samples.sample(number)
            row = torch.from_numpy(ids.astype(np.int64))[None]
            keep = torch.zeros(row.shape, dtype=torch.bool)
            keep[0, :-1] = torch.from_numpy(supervised[1:] == 1)
            wanted = row[:, 1:][keep[:, :-1]]
            parallel.require_backward_grad_sync = place == len(mine)
            logits = parallel(input_ids=row, use_cache=False, logits_to_keep=keep).logits
            loss: Any = functional.cross_entropy(logits, wanted, reduction="sum")
            (loss * world / targets).backward()
            summed += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told.seconds.append(time.monotonic() - began)
        told.tokens.append(sum(samples.lengths[n] for n in mine))
        told.losses.append(summed / targets * world)
    return told


def dealt(window: list[int], lengths: list[int], world: int) -> list[list[int]]:
    """The samples of each rank: the longest first, each to the rank with the fewest tokens."""
    shares: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for number in sorted(window, key=lambda n: -lengths[n]):
        idle = loads.index(min(loads))
        shares[idle].append(number)
        loads[idle] += lengths[number]
    return shares


if __name__ == "__main__":
    main(Path(sys.argv[1]))
