"""Parts of the libraries that no job uses wait until somebody does: they come in only because other
parts import them.

No job splits its model over ranks by torch's tensors or FSDP, writes torch's checkpoints, trains
another kind of adapter than LoRA, or has DeepSpeed put kernels of its own in place of experts.
"""

from __future__ import annotations

import inspect
import sys
import typing
from types import ModuleType, SimpleNamespace
from typing import Any

from finetune_trainer.deferred import Change, Deferral, Deferring

TUNERS = (
    *("adalora", "adamss", "adaption_prompt", "beft", "boft", "c3a", "cartridge", "cpt", "deft"),
    *("delora", "fourierft", "frod", "glora", "gralora", "hira", "hra", "ia3", "lily"),
    *("ln_tuning", "loha", "lokr", "miss", "mixed", "multitask_prompt_tuning", "oft", "osf"),
    *("p_tuning", "peanut", "poly", "prefix_tuning", "prompt_tuning", "psoft", "pvera"),
    *("randlora", "road", "shadow", "shira", "supertuning", "tinylora", "unilora", "vblora"),
    *("vera", "waveft", "xlora"),
)
"""Packages of peft.tuners: adapters of other kinds."""


def leave_out_unused() -> None:
    """To be called before torch is imported; afterwards it does nothing."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, Deferring(DEFERRALS, _CHANGES))


def _any(name: str) -> bool:
    return not name.startswith("__")


def _place(stacklevel: int) -> str:
    """File and line of a caller, which torch notes for each of hundreds of operators. Its own
    function reads the source around that line as well, and drops it."""
    frame = inspect.getframeinfo(sys._getframe(stacklevel), context=0)
    return f"{frame.filename}:{frame.lineno}"


def _module_of(found: Any) -> ModuleType | None:
    """``inspect.getmodule``, which compares the files of all modules: a frame knows its own."""
    if inspect.isframe(found):
        return sys.modules.get(found.f_globals.get("__name__", ""))
    return inspect.getmodule(found)


def _put(**values: Any) -> Change:
    return lambda module: vars(module).update(values)


def _no_fault(*_: Any, **__: Any) -> None:
    """In place of a check that logs what is odd in a plan which is not carried out."""


def _bitsandbytes_is_here() -> bool:
    """peft asks whether it could import it, and then does so for every adapter. Where weights are
    quantized, that was done when they were loaded."""
    return "bitsandbytes" in sys.modules


_WHOLE = Deferral(names=_any)
DEFERRALS = {
    **{f"peft.tuners.{name}": _WHOLE for name in TUNERS},
    "peft.helpers": _WHOLE,  # imports bitsandbytes
    "peft.tuners.cartridge.utils": _WHOLE,
    "torch.distributed._composable.fsdp": _WHOLE,
    "torch.distributed._functional_collectives": _WHOLE,
    "torch.distributed.checkpoint": _WHOLE,
    "torch.distributed.checkpoint.hf_storage": _WHOLE,
    "torch.distributed.fsdp": _WHOLE,
    "torch.distributed.fsdp.fully_sharded_data_parallel": _WHOLE,
    "torch.distributed.tensor": _WHOLE,
    "torch.distributed.tensor._utils": _WHOLE,
    "torch.distributed.tensor.placement_types": _WHOLE,
    "transformers.distributed.expert_parallel": _WHOLE,
    "transformers.distributed.tensor_parallel": Deferral(
        names=_any, instead={"verify_tp_plan": _no_fault}
    ),
    # Models take but this from it, for their annotations.
    "transformers.processing_utils": Deferral(instead={"Unpack": typing.Unpack}),
    "deepspeed.ops.triton_ops": _WHOLE,
    "deepspeed.ops.triton_ops.autoep_fused_token_ops": _WHOLE,
}
_CHANGES = {
    "peft.import_utils": _put(
        is_bnb_available=_bitsandbytes_is_here, is_bnb_4bit_available=_bitsandbytes_is_here
    ),
    "torch._library.utils": _put(get_source=_place),
    "torch.library": _put(inspect=SimpleNamespace(**vars(inspect) | {"getmodule": _module_of})),
}
