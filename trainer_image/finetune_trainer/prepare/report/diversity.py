"""How much the answers differ: distinct n-grams, common beginnings, clusters of near duplicates.

Distinct-n is the share of different n-grams among all (Li et al. 2016, https://aclanthology.org/N16-1014).
It falls as a text grows, so it is taken of a fixed number of words: then two data sets can be
compared.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from finetune_trainer.prepare.report.rows import Text

MAX_WORDS = 100_000
"""Of answers, over which distinct n-grams are counted."""
_ORDERS = (1, 2, 3)
_BEGINNING = 4
_MAX_BEGINNINGS = 5
_MAX_CHARS = 20_000
# A word of letters, digits and apostrophes; scripts without spaces between words by character.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:['’]\w+)?"
)
_SIZES = ((2, 2), (3, 5), (6, 20), (21, 100), (101, None))


def words(text: str, most: int | None = None) -> list[str]:
    """Lower-case words, without punctuation: all, or the first ``most``."""
    found = _WORD.finditer(text[:_MAX_CHARS].lower())
    return [word.group() for word in itertools.islice(found, most)]


def diversity(texts: Iterable[Text]) -> dict[str, Any]:
    """Of a fair sample of the rows, in its order."""
    seen: list[set[tuple[str, ...]]] = [set() for _ in _ORDERS]
    totals = [0] * len(_ORDERS)
    beginnings: Counter[str] = Counter()
    rows = counted = 0
    for text in texts:
        rows += 1
        room = max(0, MAX_WORDS - counted)
        answer = words(text.learnt, max(room, _BEGINNING))
        if answer:
            beginnings[" ".join(answer[:_BEGINNING])] += 1
        counted += len(answer[:room])
        for index, order in enumerate(_ORDERS):
            grams = list(zip(*(answer[n:room] for n in range(order)), strict=False))
            totals[index] += len(grams)
            seen[index].update(grams)
    return {
        "rows": rows,
        "words": counted,
        "distinct": {
            str(order): round(len(grams) / total, 4)
            for order, grams, total in zip(_ORDERS, seen, totals, strict=True)
            if total
        },
        "beginnings": [
            {"words": beginning, "rows": count}
            for beginning, count in sorted(beginnings.items(), key=lambda item: (-item[1], item[0]))
            if count > 1
        ][:_MAX_BEGINNINGS],
    }


def clusters(sizes: Sequence[int]) -> dict[str, Any]:
    """Near duplicates that hang together, before any of them is dropped; by number of rows."""
    return {
        "clusters": len(sizes),
        "rows": sum(sizes),
        "largest": max(sizes, default=0),
        "bySize": [_of_size(sizes, low, high) for low, high in _SIZES],
    }


def _of_size(sizes: Sequence[int], low: int, high: int | None) -> dict[str, Any]:
    found = [size for size in sizes if low <= size and (high is None or size <= high)]
    return {"from": low, "to": high, "clusters": len(found), "rows": sum(found)}
