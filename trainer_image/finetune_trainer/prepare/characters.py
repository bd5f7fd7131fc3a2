"""Which tokens of a text hold which of its characters.

A list of the characters of all tokens takes nearly as long as tokenising does, and few of them are
asked for. Where tokens are known to stand in the order of their characters, they are looked up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Encoding, Tokenizer
from tokenizers.normalizers import NFC

from finetune_trainer.prepare.template import Span


class Characters(Protocol):
    """The characters of each token of a text."""

    def __getitem__(self, token: int) -> Span: ...

    def tokens(self, span: Span) -> Span:
        """The tokens from the first to the last one with a part of these characters; (0, 0): none
        has. As ``range`` takes them."""


class Listed:
    """Tokens that may stand in any order."""

    def __init__(self, characters: Sequence[Span]) -> None:
        self._characters = characters

    def __getitem__(self, token: int) -> Span:
        return self._characters[token]

    def tokens(self, span: Span) -> Span:
        start, end = span
        inside = (i for i, (a, b) in enumerate(self._characters) if a < end and b > start)
        first = next(inside, None)
        if first is None:
            return (0, 0)
        backwards, of = range(len(self._characters), 0, -1), self._characters
        return (first, next(i for i in backwards if of[i - 1][0] < end and of[i - 1][1] > start))


class InOrder:
    """Tokens of which none begins, or ends, in front of the one before it."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __getitem__(self, token: int) -> Span:
        characters = self._encoding.token_to_chars(token)
        if characters is None:
            raise IndexError(f"token {token} of {len(self)}")
        return characters

    def tokens(self, span: Span) -> Span:
        start, end = span
        first = bisect_right(self, start, key=lambda characters: characters[1])
        last = bisect_left(self, end, key=lambda characters: characters[0])
        return (first, last) if first < last else (0, 0)


def keeps_order(tokenizer: Tokenizer) -> bool:
    """Whether all tokens certainly stand in order: they are bytes of the text, or of its NFC form.

    A space that is put in front of a text has no character of its own, and then they need not.
    """
    normal = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, NFC)
    steps = repr(tokenizer.pre_tokenizer)
    return normal and "ByteLevel(add_prefix_space=False" in steps and "Metaspace" not in steps
