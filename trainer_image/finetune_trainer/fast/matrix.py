"""Matrix products in fp32 on CPUs where torch's usual library holds back.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 unused on processors that are not
Intel's. oneDNN, which torch brings too, does not. Both are fp32 throughout; only the order of sums
differs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

LEAST = 1 << 22
"""Multiplications of a product that is worth it: oneDNN compiles a kernel for each new shape, and
keeps the newest thousand; callers see to it that there are few."""


@cache
def faster(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine has such a processor and this torch such a library."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    maker = next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
    # Otherwise it multiplies with another library, of which we know nothing.
    built: tuple[Any, Any] = torch.backends.mkl, torch.backends.mkldnn
    there = all(each.is_available() for each in built)
    known = maker in ("", "GenuineIntel")
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise") and not known


def times(x: torch.Tensor, other: torch.Tensor, *, rare: bool = False) -> torch.Tensor:
    """x [M, K] by the transpose of ``other`` [N, K]: [M, N], without a gradient of its own.

    ``rare``: products of such shapes hardly come again.
    """
    found: torch.Tensor
    if (
        not rare
        and x.dtype == other.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(other) >= LEAST
        and faster()
    ):
        found = torch.ops.mkldnn._linear_pointwise(x, other, None, "none", [], "")
        return found
    return x @ other.t()
