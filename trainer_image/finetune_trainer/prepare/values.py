"""Cells of columns that the job names, as its report writes and counts them."""

from __future__ import annotations

import json
import math

_MAX_CHARS = 64
_BINARY = "(binary)"


def as_value(cell: object) -> str | None:
    """A cell of a column as the report writes it; None: it is missing."""
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bytes | bytearray | memoryview):
        return _BINARY
    if not isinstance(cell, str):
        cell = json.dumps(cell, default=str, ensure_ascii=False)
    text = " ".join(cell.split()).encode("utf-8", "replace").decode()
    if not text:
        return None
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 2] + " …"
