"""How often the terms of the job's lists occur, where, and together with which column values.

A term is found without regard to case and to the kind of white space, as a whole word; where a
script has no spaces between words, anywhere. Rates are of all rows that are trained on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune_trainer.config import TermList
from finetune_trainer.prepare.report.balance import Values
from finetune_trainer.prepare.report.rows import Text

MAX_VALUES = 8
"""Terms are counted by the values of a column that has no more: others are no categories."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


class Finder:
    """Finds the terms of one list in texts."""

    def __init__(self, terms: Sequence[str]) -> None:
        by_plain: dict[str, str] = {}
        for term in terms:
            by_plain.setdefault(as_plain(term), term)
        self.terms = tuple(by_plain.values())
        """As the job writes them, without repeats."""
        self._numbers = {plain: n for n, plain in enumerate(by_plain)}
        # The longest first: where one term begins another, the longer one is meant.
        longest_first = sorted(by_plain, key=lambda term: (-len(term), term))
        self._pattern = re.compile("|".join(map(_whole_word, longest_first)))

    def count(self, plain: str) -> Counter[int]:
        """Occurrences by number of the term; ``plain`` is a text as ``as_plain`` gives it."""
        return Counter(self._numbers[found] for found in self._pattern.findall(plain))


def as_plain(text: str) -> str:
    """A text, or a term, as they are compared."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _whole_word(term: str) -> str:
    before = "" if _is_open(term[0]) else r"(?<!\w)"
    behind = "" if _is_open(term[-1]) else r"(?!\w)"
    return f"{before}{re.escape(term)}{behind}"


def _is_open(char: str) -> bool:
    """Whether a word may go on here: no letter, or of a script without spaces."""
    return not re.match(r"\w", char) or _UNSPACED.match(char) is not None


class _Tally:
    def __init__(self, terms: TermList, columns: Sequence[Values]) -> None:
        self.name = terms.name
        self.finder = Finder(terms.words)
        size = len(self.finder.terms)
        self.rows = np.zeros(size, dtype=np.int64)
        self.rows_learnt = np.zeros(size, dtype=np.int64)
        self.found = np.zeros(size, dtype=np.int64)
        self.found_learnt = np.zeros(size, dtype=np.int64)
        self.any_rows = 0
        self.shown = [_by_frequency(values) for values in columns]
        self.by_value = [np.zeros((size, len(shown)), dtype=np.int64) for shown in self.shown]

    def add(self, at: int, read: str, learnt: str, columns: Sequence[Values]) -> None:
        in_read, in_learnt = self.finder.count(read), self.finder.count(learnt)
        terms = sorted(in_read.keys() | in_learnt.keys())
        self.any_rows += bool(terms)
        for term in terms:
            self.rows[term] += 1
            self.rows_learnt[term] += term in in_learnt
            self.found[term] += in_read[term] + in_learnt[term]
            self.found_learnt[term] += in_learnt[term]
            for values, shown, counts in zip(columns, self.shown, self.by_value, strict=True):
                column = shown.get(int(values.codes[at]))
                if column is not None:
                    counts[term, column] += 1


def _by_frequency(values: Values) -> dict[int, int]:
    """Column of the table by code of the value."""
    counts = np.bincount(values.codes[values.codes > 0], minlength=1)
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], code))
    return {code: column for column, code in enumerate(order)}


def count_terms(
    lists: Sequence[TermList], texts: Iterable[Text], columns: Sequence[Values]
) -> list[dict[str, Any]]:
    """The facts of each list. ``columns``: by whose values the rows with a term are told apart."""
    columns = [values for values in columns if 1 < len(values.names) - 1 <= MAX_VALUES]
    tallies = [_Tally(terms, columns) for terms in lists]
    for text in texts:
        read, learnt = as_plain(text.read), as_plain(text.learnt)
        for tally in tallies:
            tally.add(text.at, read, learnt, columns)
    return [_facts(tally, columns) for tally in tallies]


def _facts(tally: _Tally, columns: Sequence[Values]) -> dict[str, Any]:
    return {
        "name": tally.name,
        "rows": tally.any_rows,
        "terms": [
            {
                "term": term,
                "rows": int(tally.rows[n]),
                "rowsLearnt": int(tally.rows_learnt[n]),
                "occurrences": int(tally.found[n]),
                "occurrencesLearnt": int(tally.found_learnt[n]),
            }
            for n, term in enumerate(tally.finder.terms)
        ],
        "byColumn": [
            {
                "column": values.name,
                "values": [values.names[code] for code in shown],
                "all": [int((values.codes == code).sum()) for code in shown],
                "rows": counts.tolist(),
            }
            for values, shown, counts in zip(columns, tally.shown, tally.by_value, strict=True)
        ],
    }
