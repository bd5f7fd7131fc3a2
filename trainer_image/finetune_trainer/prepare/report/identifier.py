"""py3langid for many texts at once, with the same answers.

It walks through a text byte by byte in Python, which takes most of its time; here the walks of
many texts go side by side in numpy. Importing this takes a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier


class Identifier(LanguageIdentifier):  # type: ignore[misc]
    """``classify_all`` answers as ``classify`` does for each text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By edge of the automaton, not by state: one look-up less a byte.
        self._next = np.asarray(self._rowbase, dtype=np.int32)[np.asarray(self.tk_nextmove)]
        self._output = np.asarray(self.tk_output, dtype=np.int32)[np.asarray(self.tk_nextmove)]
        self._visits: dict[bytes, Counter[int]] = {}

    @classmethod
    def load(cls) -> Identifier:
        identifier: Identifier = cls.from_model_file(MODEL_FILE, norm_probs=True)
        return identifier

    def classify_all(self, texts: Sequence[str]) -> Iterator[tuple[str, float]]:
        """(language, probability) of each text."""
        encoded = sorted({self._encode(text) for text in texts}, key=len, reverse=True)
        self._visits = dict(zip(encoded, self._walks(encoded), strict=True))
        yield from map(self.classify, texts)

    def _raw_score(self, text: bytes) -> Any:
        if visits := self._visits.get(text):
            return self._sparse_score(visits, self.nb_ptc)
        return super()._raw_score(text)

    def _walks(self, texts: Sequence[bytes]) -> Iterator[Counter[int]]:
        """Features that each text visits, counted, in the order of their first visit. The longest
        text comes first."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        longest = int(lengths.max(initial=0))
        letters = np.zeros((len(texts), longest), dtype=np.uint8)
        for row, text in zip(letters, texts, strict=True):
            row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
        letters = np.ascontiguousarray(letters.T)
        found = np.full((longest, len(texts)), -1, dtype=np.int32)
        on_the_way = np.searchsorted(-lengths, -np.arange(longest)).tolist()
        base = np.full(len(texts), self._rowbase[0], dtype=np.int32)
        for position, count in enumerate(on_the_way):
            edges = base[:count] + letters[position, :count]
            base[:count] = self._next[edges]
            found[position, :count] = self._output[edges]
        for features in np.ascontiguousarray(found.T):
            yield Counter(features[features >= 0].tolist())
