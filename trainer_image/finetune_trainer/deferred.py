"""Modules whose import waits until somebody needs what is in them.

``import x`` and ``from x import name`` of such a module cost nothing. Its `names` are stand-ins
until they are called, subclassed or looked into; anything else in it is worth the import at once.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Change = Callable[[ModuleType], None]

_loading = threading.RLock()


@dataclass(frozen=True)
class Deferral:
    """How a module is put off."""

    names: Callable[[str], bool] = lambda _: False
    """Whether a name may be a `StandIn`: a function or a class, not a value."""
    instead: Mapping[str, Any] = field(default_factory=dict)
    """What names are until the module is imported, and stay for whoever took them before."""
    alone: tuple[str, ...] = ()
    """Modules in it that can be imported without it. Any other one of them imports it."""
    first: tuple[str, ...] = ()
    """Modules to import before it, for their names must not be stand-ins in it."""


class DeferredModule(ModuleType):
    """A module that has not been executed; becomes a plain one when it is."""

    def __getattr__(self, name: str) -> Any:
        # Whoever walks through sys.modules asks for such names: no reason to import.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        loader: _DeferringLoader = self.__spec__.loader  # type: ignore[union-attr,assignment]
        deferral = loader.deferral
        if loader.package is not None and type(loader.package) is not DeferredModule:
            return getattr(execute(self), name)
        if name in deferral.instead:
            return deferral.instead[name]
        if name in deferral.alone:
            return importlib.import_module(f"{self.__name__}.{name}")
        if deferral.names(name):
            return StandIn(self, name)
        return getattr(execute(self), name)


def execute(module: ModuleType) -> ModuleType:
    """Import a deferred module for good."""
    with _loading:
        loader: _DeferringLoader = module.__spec__.loader  # type: ignore[union-attr,assignment]
        if type(module) is DeferredModule and loader.package is not None:
            execute(loader.package)  # it may bring the module along
        if type(module) is DeferredModule:
            for name in loader.deferral.first:
                execute(importlib.import_module(name))
            module.__class__ = ModuleType  # type: ignore[assignment]
            loader.real.exec_module(module)
    return module


class StandIn:
    """A function or class of a deferred module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        return getattr(execute(self._module), self._name)

    def _may_have_instances(self) -> bool:
        return type(self._module) is not DeferredModule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __mro_entries__(self, _bases: Sequence[Any]) -> tuple[type]:
        return (self._real(),)

    def __instancecheck__(self, instance: object) -> bool:
        return self._may_have_instances() and isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._may_have_instances() and issubclass(subclass, self._real())

    def __or__(self, _other: object) -> StandIn:
        return self  # in an annotation

    __ror__ = __or__


class Deferring(MetaPathFinder):
    """Finds the modules to put off, and those to change right after their import.

    A module of a package that is put off can be put off, too: until the package is here.
    """

    def __init__(
        self, deferrals: Mapping[str, Deferral], changes: Mapping[str, Change] | None = None
    ) -> None:
        self._deferrals = deferrals
        self._changes = changes or {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, short = name.rpartition(".")
        if package in self._deferrals and name not in self._deferrals:
            if short not in self._deferrals[package].alone:
                execute(sys.modules[package])
            if name in sys.modules:  # by its package, just now
                return _known(sys.modules[name])
        deferral, change = self._deferrals.get(name), self._changes.get(name)
        if deferral is None and change is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        if deferral is not None:
            around = sys.modules[package] if package in self._deferrals else None
            if around is not None and type(around) is not DeferredModule:
                return None
            spec.loader = _DeferringLoader(spec.loader, deferral, around)
        elif change is not None:
            spec.loader = _ChangingLoader(spec.loader, change)
        return spec


class _DeferringLoader(Loader):
    def __init__(self, real: Loader, deferral: Deferral, package: ModuleType | None) -> None:
        self.real = real
        self.deferral = deferral
        self.package = package
        """Put off too: once it is here, so is this module."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""

    def __getattr__(self, name: str) -> Any:  # sources and the like, for tracebacks
        return getattr(self.real, name)


class _KnownLoader(Loader):
    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _known(module: ModuleType) -> ModuleSpec:
    """For the import system, which would execute a module again that came while it searched. It
    goes by the spec that it finds in such a module, so that one is exchanged meanwhile."""
    module.__spec__ = ModuleSpec(module.__name__, _KnownLoader(module))
    return module.__spec__


class _ChangingLoader(Loader):
    def __init__(self, real: Loader, change: Change) -> None:
        self._real = real
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._change(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
