"""Makes the imports of the start cheaper; what is imported stays the same."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune_trainer.eager import leave_out_compiler
from finetune_trainer.unused import leave_out_unused

TABLE = "transformers_exports"
"""Module that holds the table; only the image has it, by ``exports_of_transformers.py``."""
_SCANNER = "transformers.utils.import_utils"


def begin() -> None:
    """To be called before torch is imported."""
    leave_out_unused()
    leave_out_compiler()
    know_exports_of_transformers()
    # Not while importing: what imports make stays, and each search for garbage costs.
    gc.disable()


def end() -> None:
    """The big imports are done: look for garbage again, but never among what is there now."""
    gc.freeze()
    gc.enable()


def know_exports_of_transformers() -> None:
    """Give transformers the table of what its models export, where the image holds it.

    Else each import of transformers reads thousands of source files to make it.
    """
    with contextlib.suppress(ModuleNotFoundError):
        table = importlib.import_module(TABLE)
        sys.meta_path.insert(0, _ScannerFinder(table.EXPORTS))


class _ScannerFinder(MetaPathFinder):
    """Finds the module that scans, and puts the table into it."""

    def __init__(self, exports: dict[str, Any]) -> None:
        self._exports = exports

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _SCANNER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ScannerLoader(spec.loader, self._exports)
        return spec


class _ScannerLoader(Loader):
    def __init__(self, loader: Loader, exports: dict[str, Any]) -> None:
        self._loader = loader
        self._exports = exports

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        scan, models = module.create_import_structure_from_path, _models(module)

        def known(path: str | Path) -> Any:
            folder = Path(path)
            if folder in (models, models / "__init__.py"):
                return self._exports
            return scan(path)

        module.create_import_structure_from_path = known  # type: ignore[attr-defined]


def _models(scanner: ModuleType) -> Path:
    return Path(str(scanner.__file__)).parents[1] / "models"
