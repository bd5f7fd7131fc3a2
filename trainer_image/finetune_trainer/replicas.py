"""All ranks begin with the same weights: compared first, and sent only where they differ.

DeepSpeed sends every parameter from rank 0 to all others before training. Ranks have read the same
files and drawn the same adapters, so it would send what is there: half a second for 135M parameters
between two pods on one machine, and in proportion for larger models and slower networks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import functional

_WORD = 8
"""Bytes that are added up at a time."""
_POSITIVE = 2**62 - 1

log = logging.getLogger(__name__)


@contextlib.contextmanager
def sent_where_they_differ(kind: Any) -> Iterator[None]:
    """Engines of this class (DeepSpeed's) that are made inside send the weights of rank 0 only if
    some rank has others."""
    send = kind._broadcast_model

    def send_differences(engine: Any) -> None:
        if not _equal_everywhere(engine):
            log.warning("the ranks have loaded different weights: all take those of rank 0")
            send(engine)

    kind._broadcast_model = send_differences
    try:
        yield
    finally:
        kind._broadcast_model = send


def checksum(parameters: Iterable[torch.Tensor]) -> int:
    """A number from 0 to 2^62 - 1 that depends on every bit, and on which parameter has it."""
    sums = [_words(each.detach()).sum() for each in parameters]
    if not sums:
        return 0
    factors = torch.arange(1, 2 * len(sums), 2, device=sums[0].device)
    return int((torch.stack(sums) * factors).sum()) & _POSITIVE


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """Its content as int64, the last one filled up with zeros."""
    content = tensor.reshape(-1).view(torch.uint8)
    if missing := -content.numel() % _WORD:
        content = functional.pad(content, (0, missing))
    elif content.storage_offset() % _WORD:
        content = content.clone()
    return content.view(torch.int64)


def _equal_everywhere(engine: Any) -> bool:
    """Collective."""
    if engine.seq_dp_world_size == 1:
        return True
    own = checksum(engine.module.parameters())
    extremes = torch.tensor([own, -own], dtype=torch.int64, device=engine.device)
    torch.distributed.all_reduce(
        extremes, torch.distributed.ReduceOp.MAX, group=engine.seq_data_parallel_group
    )
    largest, smallest = extremes.tolist()
    return bool(largest == -smallest)
