"""Whether Triton's kernels can be had here."""

from __future__ import annotations

import functools
import logging

import torch

log = logging.getLogger(__name__)


@functools.cache
def can_compile() -> bool:
    """Whether kernels can be compiled here: it takes a C compiler, the driver's library, and a home
    to write to. Where not, training goes on without them, and the log says why."""
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        with torch.no_grad():
            LigerSiLUMulFunction.apply(*torch.ones(2, 1, 16, device="cuda"))
        torch.cuda.synchronize()
    except Exception as error:
        log.warning("kernels cannot be compiled, so training is slower: %s", error)
        return False
    return True
