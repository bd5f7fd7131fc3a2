"""What a rank owns of the training state: flat tensors, and which parameters lie where in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Piece:
    """Where a part of one parameter lies in a partition of this rank. All in elements."""

    name: str
    start: int
    """Offset in the flattened parameter."""
    numel: int
    offset: int
    """Offset in the partition."""


@dataclass(frozen=True)
class Partition:
    """An fp32 tensor of master weights on this rank (flat but at ZeRO 0), with its state."""

    master: torch.Tensor
    state: dict[str, Any]
    """Optimizer state by key; tensors of the master's size, and scalars (the step count)."""
    pieces: tuple[Piece, ...]
    mine: bool = True
    """False: another rank writes it to a checkpoint (at ZeRO 0 everybody holds everything)."""
