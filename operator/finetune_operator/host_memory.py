"""Host memory that a rank with a GPU takes, at least: pure functions of the model and the settings.

Symbols as in `memory_plan`. Sources: DeepSpeed 0.19 (``stage_1_and_2.py``, ``stage3.py``) and the
trainer's ``engine.py``. Not in it: the model on its way to the GPU, data, and what the driver
takes. Nothing of it was measured on a GPU.
"""

from __future__ import annotations

from .memory_ladder import Fit
from .memory_plan import RUNTIME_BYTES, Setup, Shape, optimizer_bytes, share, state_copy, zero_stage


def host_bytes(shape: Shape, setup: Setup, fit: Fit) -> int:
    """Interpreter, offloaded state, and the copy that waits to be written."""
    copy = state_copy(shape, setup, fit) if setup.checkpoint_copy else 0
    return (
        RUNTIME_BYTES["CPU"]
        + copy
        + (_offloaded_optimizer(shape, setup, fit) if fit.offload_optimizer else 0)
        + (_offloaded_parameters(shape, setup, fit) if fit.offload_parameters else 0)
    )


def _offloaded_optimizer(shape: Shape, setup: Setup, fit: Fit) -> int:
    """Master weights and moments, and gradients as the optimizer takes them.

    ZeRO 3 adds up gradients in a memory of their own. ZeRO 1 and 2 do so on the GPU, but in FP32
    here, parameter by parameter, also those of which a part alone is the rank's; and they have
    room for new weights on their way to the GPU (cT/w). All but the moments and the master weights
    of ZeRO 3 is pinned.
    """
    part = share(4 * shape.trainable, fit)
    state = optimizer_bytes(shape, setup, fit)
    if zero_stage(fit, setup) == 3:
        return state + 2 * _pinned(part)
    edges = 2 * 4 * shape.largest if fit.world_size > 1 else 0
    sums = _pinned(part + edges) if setup.precision == "FP32" else 0
    new = share(setup.number_bytes * shape.trainable, fit)
    return state - part + 2 * _pinned(part) + sums + _pinned(new)


def _offloaded_parameters(shape: Shape, setup: Setup, fit: Fit) -> int:
    """cP/w: those that are trained in one piece, each frozen one by itself."""
    c, frozen = setup.number_bytes, shape.parameters - shape.trainable
    return _pinned(share(c * shape.trainable, fit)) + share(c * max(0, frozen), fit)


def _pinned(size: int) -> int:
    """torch rounds what it pins up to a power of two."""
    return 1 << (size - 1).bit_length() if size > 0 else 0
