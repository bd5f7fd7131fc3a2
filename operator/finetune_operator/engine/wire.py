"""JSON from and to the API server: by pydantic's parser, and without a search for garbage."""

from __future__ import annotations

import gc
from typing import Any

from pydantic_core import from_json, to_json


def parse(text: bytes | str) -> Any:
    """The value. Raises ``ValueError``.

    A list of hundreds of pods makes so many objects that Python would search all of them, and all
    that it has, for garbage again and again; what is parsed holds no cycle.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        return from_json(text, cache_strings="keys")
    finally:
        if searching:
            gc.enable()


def render(value: Any) -> bytes:
    """Compact JSON."""
    return to_json(value)
