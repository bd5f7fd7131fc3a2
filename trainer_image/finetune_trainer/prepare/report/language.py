"""Which language a text is in: py3langid, 139 languages, offline and without chance.

A naive Bayes over character pieces, so words alone are often unsure; those are not told.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from finetune_trainer.prepare.workers import in_order

MAX_CHARS = 1000
"""Of a text; more changes the answer rarely and costs time."""
_AT_ONCE = 1000
_SURE = 0.5
"""Probability among all languages from which an answer counts; code and figures stay far below."""


def languages(texts: Iterable[str], processes: int = 1) -> Iterator[str | None]:
    """ISO 639 codes, such as ``en``; None where the text is too short or fits several languages."""
    identifier = _identifier()
    heads = (text[:MAX_CHARS] for text in texts)

    def told(group: list[str]) -> list[str | None]:
        return [
            str(language) if probability >= _SURE else None
            for language, probability in identifier.classify_all(group)
        ]

    groups = iter(lambda: list(itertools.islice(heads, _AT_ONCE)), [])
    return itertools.chain.from_iterable(in_order(told, groups, processes))


def forget() -> None:
    """Give back what telling languages needs, some 150 MB."""
    _identifier.cache_clear()


@cache
def _identifier() -> Any:
    from finetune_trainer.prepare.report.identifier import Identifier  # a second of import

    return Identifier.load()
