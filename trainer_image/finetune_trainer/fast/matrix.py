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
from torch.nn import functional

LEAST = 1 << 22
"""Multiplications of a product that is worth it: oneDNN compiles a kernel for each new shape, and
keeps the newest thousand; callers see to it that there are few."""
ROUND = 16
"""Rows of a product whose number hardly comes again are made a multiple of this."""


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

    ``rare``: products of so many rows hardly come again; they are rounded up, for few kernels.
    """
    found: torch.Tensor
    if (
        x.dtype == other.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(other) >= LEAST
        and faster()
    ):
        rows = _rounded(len(x)) if rare else len(x)
        full = x if rows == len(x) else functional.pad(x, (0, 0, 0, rows - len(x)))
        found = torch.ops.mkldnn._linear_pointwise(full, other, None, "none", [], "")
        return found[: len(x)]
    return x @ other.t()


def _rounded(rows: int) -> int:
    """Up to a multiple of ``ROUND``, of more where that adds less than a quarter."""
    step = max(ROUND, (1 << rows.bit_length()) // 8)
    return -(-rows // step) * step
