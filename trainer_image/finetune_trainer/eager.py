"""Training runs without torch's compiler, so its packages are not imported.

They are about half of what a start would import, and come in only because libraries mark functions
for the compiler. A mark is taken off; what wants the compiler itself gets it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from finetune_trainer.deferred import Change, Deferral, Deferring, execute

SYMBOLIC = "torch.fx.experimental.symbolic_shapes"  # it works on sympy
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


def _unless_symbolic(name: str, answer: Callable[..., bool]) -> Callable[..., bool]:
    """A question about sizes and conditions, which torch asks even where nothing is symbolic."""

    def asked(*values: Any, **kwargs: Any) -> bool:
        if not kwargs and all(map(_plain, values)):
            return answer(*values)
        told: bool = getattr(execute(sys.modules[SYMBOLIC]), name)(*values, **kwargs)
        return told

    return asked


def _plain(value: Any) -> bool:
    return type(value) in (bool, int) or (type(value) is tuple and all(map(_plain, value)))


def _take_off(*names: str) -> Change:
    def change(module: ModuleType) -> None:
        for name in names:
            setattr(module, name, unmarked)

    return change


def _public(name: str) -> bool:
    return not name.startswith("_")


ANSWERS: dict[str, Callable[..., bool]] = {
    **dict.fromkeys(("expect_true", "guard_or_false", "guard_or_true"), bool),
    "statically_known_true": bool,
    "is_nested_int": lambda _: False,
    "sym_and": lambda *values: all(values),
    "sym_or": lambda *values: any(values),
    "sym_eq": operator.eq,
}
"""To questions of the module about symbols, where nothing asked about is one."""
_is_helper: Callable[[str], bool] = "TransformGetItemToIndex".__eq__
_DEFERRALS = {
    "torch._dynamo": Deferral(
        instead={
            **dict.fromkeys(MARKS, unmarked),
            "graph_break": _nothing,
            # Saving asks whether a model is compiled.
            "eval_frame": SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),
            # torch.distributed empties its cache.
            "trace_rules": SimpleNamespace(clear_lru_cache=_nothing),
        },
        alone=("config",),
        first=(SYMBOLIC,),
    ),
    "torch._dynamo._trace_wrapped_higher_order_op": Deferral(names=_is_helper),
    "torch._inductor": Deferral(first=(SYMBOLIC,)),
    SYMBOLIC: Deferral(
        names=_public,
        instead={name: _unless_symbolic(name, answer) for name, answer in ANSWERS.items()},
        first=("sympy",),
    ),
    # Torch asks of each number that it is none of these.
    "sympy": Deferral(names="Basic".__eq__),
}
_CHANGES = {
    "torch": _take_off("compile"),
    "torch.compiler": _take_off(*MARKS[:3]),
    "torch._compile": _take_off("_disable_dynamo"),
}
