"""Weights that were written are read back before they count."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import safe_open

from finetune_trainer.errors import StageError

log = logging.getLogger(__name__)


def check_weights(folder: Path) -> None:
    """Every tensor in ``folder`` has elements and all are finite. Raises ``StageError``.

    Under ZeRO 3 a parameter that was not gathered is saved with no elements, and the libraries only
    warn.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StageError(f"{folder.name} holds no safetensors file")
    trained = False
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
                trained = trained or "lora_B" not in name or bool(tensor.any())
    if not trained:
        log.warning("all lora_B of %s are zero: training changed nothing", folder.name)
