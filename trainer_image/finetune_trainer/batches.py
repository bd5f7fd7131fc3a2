"""Which rows a step trains on, how the ranks share them, and how rows become tensors.

Everything here is a pure function of (seed, step): no state to save, nothing to exchange. The
global batch of a step does not depend on the number of ranks, so a job that resumes on another
world size sees the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Label of a token that is not a target (the default ``ignore_index`` of torch)."""

Indices = npt.NDArray[np.int64]


class PackedRow(Protocol):
    """One row of T tokens; ``labels`` are not shifted, ``position_ids`` restart per segment."""

    @property
    def input_ids(self) -> torch.Tensor: ...
    @property
    def position_ids(self) -> torch.Tensor: ...
    @property
    def labels(self) -> torch.Tensor: ...


class PackedRows(Protocol):
    """What the loop needs of a data set; ``prepare.store.PackedDataset`` provides it."""

    num_supervised: Indices
    """int64 [R]: number of targets in each row, after the causal shift."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> PackedRow: ...
    @property
    def row_lengths(self) -> Indices: ...
    @property
    def num_pairs(self) -> Indices:
        """int64 [R]: pairs of tokens of the same sample in each row, a token with itself too."""
        ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a rank; all tensors are int64 [B, T]."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Window:
    """The rows of one optimizer step over all ranks."""

    step: int
    epoch: int
    rows: Indices
    """int64 [≤ global batch size]; the last window of an epoch may be smaller."""
    supervised: int
    """Targets in these rows: the denominator of the step's loss."""
    tokens: int


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, rows: int) -> Indices:
    """Order of the rows in one epoch, a permutation of ``range(rows)``."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


class Windows:
    """The windows of a job, by step."""

    def __init__(self, data: PackedRows, *, seed: int, global_batch_size: int) -> None:
        self._data = data
        self._lengths = data.row_lengths
        self._seed = seed
        self._size = global_batch_size
        self.per_epoch = -(-len(data) // global_batch_size)

    def __getitem__(self, step: int) -> Window:
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(self._seed, epoch, len(self._data))
        rows = order[place * self._size : (place + 1) * self._size]
        return Window(
            step=step,
            epoch=epoch,
            rows=rows,
            supervised=int(self._data.num_supervised[rows].sum()),
            tokens=int(self._lengths[rows].sum()),
        )

    def samples_before(self, step: int) -> int:
        """Rows consumed by the steps before ``step``: the cursor of a checkpoint."""
        epoch, place = divmod(step, self.per_epoch)
        return epoch * len(self._data) + place * self._size


def share_of(
    rows: Indices, costs: Indices, *, rank: int, world_size: int, micro_batch_size: int
) -> list[Indices]:
    """The micro-batches of one rank: row numbers, at most ``micro_batch_size`` each.

    Every rank gets the same number of micro-batches, because ZeRO runs collectives in each backward
    pass: a rank with fewer rows gets empty micro-batches, which `collate` turns into rows that
    weigh nothing. As the ranks wait for each other there, the rows of a pass are dealt by
    ``costs`` [as many]: costly rows with costly ones, the next one always to the rank that has
    least to do. One rank alone takes them in their order.
    """
    if world_size == 1:
        return [rows[at : at + micro_batch_size] for at in range(0, len(rows), micro_batch_size)]
    order = np.argsort(-costs, kind="stable")
    whole = world_size * micro_batch_size
    so_far = [0] * world_size
    share = []
    for at in range(0, len(rows), whole):
        dealt: list[list[int]] = [[] for _ in range(world_size)]
        now = [0] * world_size
        for place in order[at : at + whole]:
            free = (each for each in range(world_size) if len(dealt[each]) < micro_batch_size)
            idle = min(free, key=lambda each: (now[each], so_far[each]))
            dealt[idle].append(int(place))
            now[idle] += int(costs[place])
        so_far = [before + more for before, more in zip(so_far, now, strict=True)]
        share.append(rows[sorted(dealt[rank])])
    return share


def collate(rows: Sequence[PackedRow]) -> Batch:
    """Pad rows to the longest of them and stack; no rows give one row that weighs nothing.

    The tail of a short row is a segment of its own (positions restart at 0) without targets: no
    attention mask is needed, and none may be passed, since a mask switches isolation off.
    """
    length = max((len(row.input_ids) for row in rows), default=1)
    count = max(len(rows), 1)
    input_ids = torch.zeros((count, length), dtype=torch.long)
    position_ids = torch.zeros((count, length), dtype=torch.long)
    labels = torch.full((count, length), IGNORE)
    if not rows:
        position_ids[0] = torch.arange(length)
    for index, row in enumerate(rows):
        used = len(row.input_ids)
        input_ids[index, :used] = row.input_ids
        position_ids[index, :used] = row.position_ids
        position_ids[index, used:] = torch.arange(length - used)
        labels[index, :used] = row.labels
    return Batch(input_ids, position_ids, labels)
