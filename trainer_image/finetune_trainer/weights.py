"""The trained weights as safetensors, gathered from all ranks and read back before they count."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.durable import sync
from finetune_trainer.engine import Engine
from finetune_trainer.errors import DiskFull, StageError, failure_class, hint_of, message_of
from finetune_trainer.gang import Gang
from finetune_trainer.weight_check import check_weights


def save_weights(engine: Engine, gang: Gang, folder: Path) -> None:
    """Write ``adapter/`` (LoRA) or ``model/`` (full) into the attempt's folder. Collective.

    Appears by rename, so a folder of that name is whole. Raises on every rank if rank 0 cannot.
    """
    model = engine.module
    adapted = hasattr(model, "peft_config")
    weights = engine.gather_weights(trainable_only=adapted)
    fault: StageError | None = None
    if gang.is_first:
        try:
            _write(model, weights, folder / ("adapter" if adapted else "model"))
        except Exception as error:  # the libraries have errors of their own; nobody may wait for us
            full = failure_class(error) is DiskFull.failure
            kind, hint = (DiskFull if full else StageError), hint_of(error)
            fault = kind(f"the trained weights cannot be saved: {message_of(error)}", hint)
    fault = gang.broadcast(fault)
    if fault is not None:
        raise fault


def _write(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=weights, safe_serialization=True)
    check_weights(temporary)
    # The result that says that they are there is durable; so are they.
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync(folder.parent)
