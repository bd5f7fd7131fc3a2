"""All ranks together: how they join, and the small exchanges of the loop.

Control messages go over a gloo group of their own, never over the group that carries gradients: a
slow save must not run into the watchdog of NCCL, nor mix with collectives in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from finetune_trainer import engine
from finetune_trainer.errors import CollectiveTimeout, Rendezvous, StageError
from finetune_trainer.rendezvous import Place, wait_for_name

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PrefixStore = distributed.PrefixStore  # type: ignore[attr-defined]
TCPStore = distributed.TCPStore  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Gang:
    """The joined ranks. Every method is collective: all ranks call it, in the same order."""

    place: Place
    store: Store
    """Lives in the process of rank 0, for as long as this object does."""
    control: Any
    """The gloo group for control messages."""

    @property
    def is_first(self) -> bool:
        return self.place.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Each value added up over the ranks, in double precision."""
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank."""
        values: list[Any] = [None] * self.place.world_size
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def barrier(self) -> None:
        distributed.barrier(group=self.control)

    def collectives_begun(self) -> int:
        """So many this rank has begun, of gradients and of control. Not collective; any thread may
        ask."""
        # The group of the gradients is the default one.
        groups = (distributed.distributed_c10d._get_default_group(), self.control)
        return sum(int(group._get_sequence_number_for_group()) for group in groups)


def join(
    place: Place, device: torch.device, *, rendezvous_seconds: float, collective_seconds: float
) -> Gang:
    """Meet the other ranks at rank 0. Raises ``Rendezvous`` when they do not all come in time."""
    wait_for_name(place.master_addr, seconds=rendezvous_seconds)
    timeout = timedelta(seconds=collective_seconds)
    try:
        store = open_store(place, seconds=rendezvous_seconds, server=place.rank == 0)
        distributed.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("train", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
            device_id=device if device.type == "cuda" and place.world_size > 1 else None,
        )
        control = distributed.new_group(backend="gloo", timeout=timeout)
    except (distributed.DistError, RuntimeError) as error:
        raise Rendezvous(
            f"rank {place.rank} did not meet the other {place.world_size - 1} ranks at "
            f"{place.master_addr}:{place.master_port} within {rendezvous_seconds:.0f} s: "
            f"{str(error).splitlines()[0]}",
            hint="are all pods of the gang running, and may they reach each other?",
        ) from error
    engine.init_distributed(timeout)
    return Gang(place, store, control)


def open_store(place: Place, *, seconds: float, server: bool = False) -> Store:
    """A connection of its own to the store in the process of rank 0."""
    return TCPStore(
        place.master_addr,
        place.master_port,
        is_master=server,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )


def connection(place: Place) -> Store:
    """The control store over a connection of its own, for a thread of its own."""
    return PrefixStore("control", open_store(place, seconds=10))


def translated(error: BaseException) -> BaseException:
    """The error itself, or ``CollectiveTimeout`` where it says that the ranks lost each other."""
    if isinstance(error, StageError) or not isinstance(error, RuntimeError):
        return error
    text = str(error)
    lost = isinstance(error, distributed.DistError) or any(sign in text for sign in _LOST_PEER)
    if not lost or "out of memory" in text:
        return error
    return CollectiveTimeout(
        f"this rank lost the others: {text.splitlines()[0]}",
        hint="another rank died or hangs; its own message tells why",
    )


_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Broken pipe",
    "Connection refused",
    "gloo/transport",
    "NCCL error",
    "NCCL communicator was aborted",
)
