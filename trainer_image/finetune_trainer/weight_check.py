"""Weights that were written are read back before they count."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from finetune_trainer.errors import StageError


def check_weights(folder: Path) -> None:
    """Every tensor in ``folder`` has elements and all are finite. Raises ``StageError``.

    Under ZeRO 3 a parameter that was not gathered is saved with no elements, and the libraries only
    warn.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StageError(f"{folder.name} holds no safetensors file")
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if not names:
                raise StageError(f"{path.name} holds no tensor")
            for name in names:
                tensor = file.get_tensor(name)
                if tensor.numel() == 0:
                    raise StageError(f"{path.name}: {name} is empty; the weights were not gathered")
                if not torch.isfinite(tensor).all():
                    raise StageError(f"{path.name}: {name} holds values that are not finite")


def check_learnt(adapter: Path) -> None:
    """Some second factor of an adapter has left zero, at which all of them begin. Raises
    ``StageError``."""
    found = False
    for path in sorted(adapter.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in file.keys() if "lora_B" in name):  # noqa: SIM118
                if file.get_tensor(name).any():
                    return
                found = True
    if found:
        raise StageError(
            "training changed nothing: every lora_B of the adapter is zero, as at the start",
            "look at status.progress.skipped for steps that were left out, and at "
            "spec.training.learningRate",
        )
