"""What ``GET /progress`` answers: the state of the attempt as one bounded JSON object."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

from finetune_trainer import heartbeat

MAX_BYTES = 64 * 1024
_OF_A_BEAT = ("rank", "phase", "step", "at")
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Progress:
    """Written by the training thread, read by the HTTP threads.

    Values of ``None`` are left out: the reader treats what is absent as unknown. Numbers that are
    not finite were measured; see ``told``.
    """

    def __init__(self, attempt: int, heartbeats: Path, world_size: int) -> None:
        self._lock = threading.Lock()
        self._heartbeats = heartbeats
        self._world_size = world_size
        self._content: dict[str, Any] = {"attempt": attempt, "phase": "init", "metrics": {}}

    def update(self, *, metrics: dict[str, Any] | None = None, **values: Any) -> None:
        """Replace top-level values; ``metrics`` are merged into those known already."""
        with self._lock:
            self._content.update(values, updatedAt=round(time.time(), 3))
            self._content["metrics"] = {**self._content["metrics"], **(metrics or {})}

    @property
    def metrics(self) -> dict[str, Any]:
        with self._lock:
            known: dict[str, Any] = told(self._content["metrics"])
            return known

    @property
    def resumed_from(self) -> dict[str, Any] | None:
        """Where this attempt began, once it is known."""
        with self._lock:
            return self._content.get("resumedFrom")

    def render(self) -> bytes:
        """The object with the heartbeats of all ranks; the oldest beats first if not all fit."""
        with self._lock:
            content = told(self._content)
        beats = heartbeat.read_all(self._heartbeats, self._world_size)
        ranks = [{name: beat[name] for name in _OF_A_BEAT if name in beat} for beat in beats]
        content["ranks"] = ranks
        body = _dump(content)
        if len(body) > MAX_BYTES:
            ranks.sort(key=lambda beat: float(beat.get("at", 0)))
            while len(body) > MAX_BYTES and ranks:
                del ranks[len(ranks) // 2 :]
                body = _dump(content)
        return body


def told(content: Any) -> Any:
    """The content as JSON holds it, at any depth: without ``None``, and with NaN and infinities,
    for which JSON has no number, as the words "NaN", "Infinity" and "-Infinity"."""
    if isinstance(content, dict):
        return {key: told(value) for key, value in content.items() if value is not None}
    if isinstance(content, list | tuple):
        return [told(value) for value in content if value is not None]
    if isinstance(content, float) and not math.isfinite(content):
        return next(word for word, number in _WORDS.items() if str(number) == str(content))
    return content


def numbers(content: Any) -> Any:
    """The content with numbers in the place of these words, at any depth."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [numbers(value) for value in content]
    return _WORDS.get(content, content) if isinstance(content, str) else content


def finite(content: Any) -> Any:
    """The content without ``None`` and without NaN and infinities, at any depth."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items() if _known(value)}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content if _known(value)]
    return content


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _dump(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
