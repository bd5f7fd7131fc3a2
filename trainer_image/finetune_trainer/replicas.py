"""Ranks on CPUs begin with the same weights: compared first, and sent only where they differ.

DeepSpeed sends every parameter from rank 0 to all others before training. Ranks have read the same
files and drawn the same adapters, so it would send what is there: half a second for 135M parameters
between two pods on one machine, and in proportion for larger models and slower networks. GPUs send
as ever: their weights would have to come back to be hashed here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import xxhash

_HALF = 2**32

log = logging.getLogger(__name__)


@contextlib.contextmanager
def sent_where_they_differ(kind: Any) -> Iterator[None]:
    """Engines of this class (DeepSpeed's) that are made inside send the weights of rank 0 only if
    some rank has others."""
    send = kind._broadcast_model

    def send_differences(engine: Any) -> None:
        if not _equal_everywhere(engine):
            send(engine)

    kind._broadcast_model = send_differences
    try:
        yield
    finally:
        kind._broadcast_model = send


def fingerprint(parameters: Iterable[torch.Tensor]) -> int:
    """A 64-bit hash (XXH3) of all parameters' content in their order. They lie on the CPU."""
    content: Any = xxhash.xxh3_64()
    for each in parameters:
        content.update(each.detach().reshape(-1).view(torch.uint8).numpy())
    return int(content.intdigest())


def _equal_everywhere(engine: Any) -> bool:
    """False also where nobody has looked. Collective."""
    if engine.device.type != "cpu":
        return False
    halves = divmod(fingerprint(engine.module.parameters()), _HALF)
    extremes = torch.tensor([*halves, *(-half for half in halves)])
    torch.distributed.all_reduce(
        extremes, torch.distributed.ReduceOp.MAX, group=engine.seq_data_parallel_group
    )
    largest, smallest = extremes.chunk(2)
    if torch.equal(largest, -smallest):
        return True
    log.warning("the ranks have loaded different weights: all take those of rank 0")
    return False
