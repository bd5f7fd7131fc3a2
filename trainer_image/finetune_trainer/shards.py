"""A rank's part of the training state as a safetensors file, and back, at any world size.

Each tensor in the file is a stretch of one flattened parameter, keyed
``<parameter>|<first element>|<what>`` with ``master`` (fp32 weights) or the name of an optimizer
state (``exp_avg``, ``step``…). Keys say what a stretch is, not who owned it, so another number of
ranks or another ZeRO stage finds its parts in the same files. No pickle: reading one cannot run
code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_trainer import tensor_file
from finetune_trainer.partition import Partition, Piece

MASTER = "master"
_MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, each of the size of the weights."""


def size(partitions: Iterable[Partition]) -> int:
    """Bytes that a shard will take, without the header."""
    return sum(tensor.nbytes for tensor in stretches(partitions).values())


def expected_size(partitions: Iterable[Partition], optimizer: torch.optim.Optimizer) -> int:
    """`size` as it will be after the first step, when the optimizer has its state."""
    states = len(_MOMENTS) if isinstance(optimizer, torch.optim.AdamW) else 0
    return sum(
        piece.numel * partition.master.element_size() * (1 + states)
        for partition in partitions
        for piece in partition.pieces
        if partition.mine
    )


def write(path: Path, partitions: Iterable[Partition]) -> dict[str, Any]:
    """Write this rank's stretches and make them durable. Returns size and hash.

    Raises ``OSError``.
    """
    tensors = tensor_file.arranged(stretches(partitions))
    return tensor_file.write(path, tensor_file.parts(tensors))


def read(
    paths: Sequence[Path], partitions: Sequence[Partition], *, weights_only: bool = False
) -> None:
    """Fill the partitions, weights and optimizer state, from the files of all ranks.

    ``weights_only`` leaves the optimizer's state in the files. Raises ``KeyError`` where the files
    do not cover a parameter.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        saved = _index(files)
        for partition in partitions:
            for piece in partition.pieces:
                _fill(partition, piece, saved, weights_only)


@dataclass(frozen=True)
class _Saved:
    """A stretch in a file. ``numel`` is None for a scalar."""

    file: Any
    key: str
    start: int
    numel: int | None

    def part(self, first: int, last: int) -> torch.Tensor:
        tensor: torch.Tensor = self.file.get_slice(self.key)[first - self.start : last - self.start]
        return tensor

    def scalar(self) -> torch.Tensor:
        tensor: torch.Tensor = self.file.get_tensor(self.key)
        return tensor


def stretches(partitions: Iterable[Partition]) -> dict[str, torch.Tensor]:
    """What a shard holds, by key: views of the engine's own memory."""
    found = {}
    for partition in partitions:
        if not partition.mine:
            continue
        for piece in partition.pieces:
            values = {MASTER: partition.master, **_tensors(partition.state)}
            for what, tensor in values.items():
                if tensor.dim() > 0:
                    tensor = tensor.view(-1)[piece.offset : piece.offset + piece.numel]
                found[f"{piece.name}|{piece.start}|{what}"] = tensor
    return found


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _index(files: Sequence[Any]) -> dict[str, dict[str, list[_Saved]]]:
    """Stretches by parameter and by what they hold."""
    found: dict[str, dict[str, list[_Saved]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            name, start, what = key.rsplit("|", 2)
            shape = file.get_slice(key).get_shape()
            numel = shape[0] if shape else None
            found[name][what].append(_Saved(file, key, int(start), numel))
    return found


def _fill(
    partition: Partition,
    piece: Piece,
    saved: dict[str, dict[str, list[_Saved]]],
    weights_only: bool,
) -> None:
    if piece.name not in saved:
        raise KeyError(f"the checkpoint does not hold {piece.name}")
    for what, stretches in saved[piece.name].items():
        if weights_only and what != MASTER:
            continue
        if stretches[0].numel is None:
            partition.state[what] = _placed(stretches[0].scalar(), partition.master)
            continue
        target = partition.master if what == MASTER else _state_tensor(partition, what)
        target = target.detach().view(-1)
        covered = 0
        for stretch in stretches:
            first = max(piece.start, stretch.start)
            last = min(piece.start + piece.numel, stretch.start + (stretch.numel or 0))
            if first < last:
                at = piece.offset + first - piece.start
                target[at : at + last - first].copy_(stretch.part(first, last))
                covered += last - first
        if covered != piece.numel:
            raise KeyError(f"the checkpoint holds {covered} of {piece.numel} elements of {piece}")


def _state_tensor(partition: Partition, what: str) -> torch.Tensor:
    if what not in partition.state:
        partition.state[what] = torch.zeros_like(partition.master, requires_grad=False)
    tensor: torch.Tensor = partition.state[what]
    return tensor


def _placed(scalar: torch.Tensor, master: torch.Tensor) -> torch.Tensor:
    # The fused optimizer of a GPU keeps its step count there, the others in host memory.
    return scalar.to(master.device) if master.is_cuda else scalar.clone()
