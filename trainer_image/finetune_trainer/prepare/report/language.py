"""Which language a text is in: py3langid, 139 languages, offline and without chance.

A naive Bayes over character pieces, so words alone are often unsure; those are not told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

MAX_CHARS = 1000
"""Of a text; more changes the answer rarely and costs time."""
_SURE = 0.5
"""Probability among all languages from which an answer counts; code and figures stay far below."""

Languages = Callable[[Sequence[str]], list[str | None]]
"""ISO 639 codes, such as ``en``; None where the text is too short or fits several languages."""


def told_apart() -> Languages:
    """What tells the languages of texts. It needs some 150 MB as long as somebody holds it; worker
    processes that begin meanwhile share them."""
    identifier = _load()

    def languages(texts: Sequence[str]) -> list[str | None]:
        return [
            str(language) if probability >= _SURE else None
            for language, probability in identifier.classify_all(
                [text[:MAX_CHARS] for text in texts]
            )
        ]

    return languages


def _load() -> Any:
    from finetune_trainer.prepare.report.identifier import Identifier  # a second of import

    return Identifier.load()
