"""Training runs without torch's compiler, so its packages are not imported.

They are about half of what a start would import, and come in only because libraries mark functions
for the compiler. A mark is taken off; what wants the compiler itself gets it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from finetune_trainer.deferred import Change, Deferral, Deferring

SYMBOLIC = "torch.fx.experimental.symbolic_shapes"  # and with it sympy
MARKS = ("disable", "allow_in_graph", "assume_constant_result", "disallow_in_graph")
"""Decorators of the compiler that say how to treat a function."""


def leave_out_compiler() -> None:
    """To be called before torch is imported; afterwards it does nothing."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, Deferring(_DEFERRALS, _CHANGES))


def unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Any decorator of the compiler: ``@mark``, ``@mark(options)``, ``mark(function, options)``."""
    if function is None or not callable(function):
        return unmarked
    return function


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _take_off(*names: str) -> Change:
    def change(module: ModuleType) -> None:
        for name in names:
            setattr(module, name, unmarked)

    return change


def _public(name: str) -> bool:
    return not name.startswith("_")


_is_helper: Callable[[str], bool] = "TransformGetItemToIndex".__eq__
_DEFERRALS = {
    "torch._dynamo": Deferral(
        instead={
            **dict.fromkeys(MARKS, unmarked),
            "graph_break": _nothing,
            # torch.distributed empties its cache.
            "trace_rules": SimpleNamespace(clear_lru_cache=_nothing),
        },
        alone=("config",),
        first=(SYMBOLIC,),
    ),
    "torch._dynamo._trace_wrapped_higher_order_op": Deferral(names=_is_helper),
    "torch._inductor": Deferral(first=(SYMBOLIC,)),
    SYMBOLIC: Deferral(names=_public),
}
_CHANGES = {
    "torch": _take_off("compile"),
    "torch.compiler": _take_off(*MARKS[:3]),
    "torch._compile": _take_off("_disable_dynamo"),
}
