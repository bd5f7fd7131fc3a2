"""What a scorer wrote: a stranger's text, until it is judged here.

{"tuned": {"politeness": 0.9}, "base": {"politeness": 0.7}}
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..api.schema import decimal_string
from ..api.scoring import MAX_METRICS, METRIC

MAX_NAME = 63
_KEYS = ("tuned", "base")
_NAME = re.compile(METRIC)


class NoNumbersError(ValueError):
    """The text says no numbers; the message says why, as the end of a sentence."""


def read_numbers(text: str) -> dict[str, dict[str, str]]:
    """``tuned`` and, where it is there, ``base``, as decimal strings. Raises ``NoNumbersError``."""
    if not text.strip():
        raise NoNumbersError("it wrote nothing to the file that $SCORES names")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoNumbersError(
            f"what it wrote to $SCORES is no JSON, or more than the 3 kB that are read: "
            f"{str(error)[:80]}"
        ) from error
    if not isinstance(content, dict) or "tuned" not in content:
        raise NoNumbersError('what it wrote to $SCORES is no object with the key "tuned"')
    if unknown := sorted(set(content) - set(_KEYS)):
        raise NoNumbersError(f'{unknown[0][:64]!r} is neither "tuned" nor "base"')
    return {key: _numbers(key, content[key]) for key in _KEYS if key in content}


def _numbers(key: str, found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not 1 <= len(found) <= MAX_METRICS:
        raise NoNumbersError(f"{key} is no object with 1 to {MAX_METRICS} numbers")
    return {_name(key, name): _number(f"{key}.{name}", value) for name, value in found.items()}


def _name(key: str, name: str) -> str:
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
        raise NoNumbersError(
            f"{key} has the name {name[:64]!r}: letters, digits, - and _ make one, a letter first"
        )
    return name


def _number(place: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoNumbersError(f"{place} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NoNumbersError(f"{place} is not finite")
    return decimal_string(number)
