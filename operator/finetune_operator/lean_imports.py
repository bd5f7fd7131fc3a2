"""Makes the imports of the start cheaper, and lets SIGTERM end them.

The first of our modules that ``__main__`` imports.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from typing import Any


def import_bare(package: str) -> None:
    """Make the subpackages of ``package`` importable without running its ``__init__``.

    It runs when somebody asks the package for something of its own.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.loader is None:
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def whole(name: str) -> Any:
        if (part := sys.modules.get(f"{package}.{name}")) is not None:  # on its way in
            return part
        del vars(module)["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    vars(module)["__getattr__"] = whole
    sys.modules[package] = module


def done() -> None:
    """Look for garbage again, less often than Python would and never among what was imported."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


if os.getpid() == 1:
    # The kernel spares PID 1 the signals that nobody handles: told to stop while it starts, an
    # operator would go on beside its successor until the grace period is over.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
# What imports make stays, and each search for garbage among it costs.
gc.disable()
# We use kubernetes.aio alone; the package itself would import the whole synchronous client too,
# with requests, oauthlib and websocket.
import_bare("kubernetes")
