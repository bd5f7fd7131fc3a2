"""The state of one step, kept in host memory while later steps change the original."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from finetune_trainer import tensor_file

log = logging.getLogger(__name__)


class Snapshot:
    """A copy of this rank's part of the state, laid out as its file will be.

    The memory is taken once and used again by the next snapshot: fresh memory costs a page fault
    for every 4 kB, which is more than the copy.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self.pinned = False
        """The device copies into the memory by itself."""

    def take(self, tensors: Mapping[str, torch.Tensor]) -> list[memoryview]:
        """Copy, and wait until it is done. Returns the file's content, which the next call renews.

        Costs host memory of the tensors' size.
        """
        arranged = tensor_file.arranged(tensors)
        devices = {tensor.device for _, tensor in arranged if tensor.is_cuda}
        self._fit(sum(tensor.nbytes for _, tensor in arranged), pinned=bool(devices))
        end = 0
        for _, tensor in arranged:
            start, end = end, end + tensor.nbytes
            target = self._memory[start:end].view(tensor.dtype)
            target.copy_(tensor.detach().reshape(-1), non_blocking=True)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return [memoryview(tensor_file.header(arranged)), self._memory.numpy().data]

    def _fit(self, size: int, *, pinned: bool) -> None:
        if self._memory.numel() == size:
            return
        if self.pinned:
            _cuda_runtime().cudaHostUnregister(self._memory.data_ptr())
        self._memory = torch.empty(size, dtype=torch.uint8)
        # Not pin_memory=True: torch would round the size up to a power of two.
        self.pinned = pinned and _pin(self._memory)


def _pin(memory: torch.Tensor) -> bool:
    """Let the device copy into it by itself. Where that is not allowed, copies are slower."""
    code = int(_cuda_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if code:
        log.warning("host memory for checkpoints cannot be pinned (CUDA error %d)", code)
    return code == 0


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
