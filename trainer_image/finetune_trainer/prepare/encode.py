"""From rendered text to token ids and a target mask.

The whole text is tokenised once; characters are mapped to tokens by offsets. Targets are the
assistant's text with its end-of-turn token: the line break that many templates put behind that
token is not one, and an end-of-turn token that the span misses is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import chat_template_utils

from finetune_trainer.model import implied_bos
from finetune_trainer.prepare.characters import Characters, InOrder, Listed, keeps_order
from finetune_trainer.prepare.template import Rendered, Span

_CHARS_AT_ONCE = 2**18
"""Of texts that are tokenised together: enough to be fast, and memory stays small."""

Ids = list[int]
Mask = npt.NDArray[np.uint8]

_START = chat_template_utils._CONTROL_TOKEN_START
_END = chat_template_utils._CONTROL_TOKEN_END


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample and, of the same length, 1 where the token is a target."""

    input_ids: npt.NDArray[np.int32]
    supervised: Mask


@dataclass(frozen=True)
class Written:
    """A sample as text, before it becomes tokens."""

    rendered: Rendered | None
    """By the chat template; None: ``prompt`` and ``text`` are written without one."""
    spans: tuple[Span, ...] | None = None
    """The characters that are learnt; None: all are."""
    prompt: str = ""
    text: str = ""

    def texts(self) -> tuple[str, ...]:
        """What is tokenised in one piece."""
        return (self.prompt, self.text) if self.rendered is None else (self.rendered.text,)


class Encoder:
    """Tokenises samples of one model: exactly one BOS in front, EOS behind what has no other end.

    ``end_of_turn`` holds the ids that end an answer: the tokenizer's EOS and those of the model's
    generation configuration.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_turn: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._eos: int | None = tokenizer.eos_token_id
        self._end_of_turn = {*end_of_turn, *([] if self._eos is None else [self._eos])}
        self._bos = implied_bos(tokenizer)
        self._encode: Callable[..., Any] = partial(
            tokenizer.__call__,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        self._in_order = keeps_order(tokenizer.backend_tokenizer)
        self._known: dict[tuple[str, bool], tuple[Ids, Characters]] = {}
        """Texts that are tokenised already, and whether control tokens in them are text."""

    def sample(self, written: Written) -> Encoded:
        """One sample."""
        if written.rendered is None:
            return self.plain(written.prompt, written.text)
        if written.spans is None:
            return self.everything(written.rendered.text)
        return self.chat(written.rendered, written.spans)

    def samples(self, written: Iterable[Written]) -> Iterator[Encoded]:
        """Many samples in order; their texts are tokenised together, which is faster."""
        for group in _groups(written):
            try:
                for plain in (False, True):
                    own = [sample for sample in group if (sample.rendered is None) is plain]
                    texts = dict.fromkeys(text for sample in own for text in sample.texts())
                    self._know([text for text in texts if text and not _is_marked(text)], plain)
                yield from map(self.sample, group)
            finally:  # also where nobody asks for more than the last sample
                self._known.clear()

    def _know(self, texts: list[str], as_text: bool) -> None:
        if texts:
            found = self._encode(texts, **({"split_special_tokens": True} if as_text else {}))
            for text, ids, encoding in zip(texts, found["input_ids"], found.encodings, strict=True):
                self._known[text, as_text] = (ids, self._characters(encoding))

    def chat(self, rendered: Rendered, spans: tuple[Span, ...]) -> Encoded:
        """A conversation whose targets are the characters in ``spans``."""
        ids, characters = self._encode_marked(rendered.text)
        mask = np.zeros(len(ids), dtype=np.uint8)
        for span in spans:
            first, last = self._tokens(ids, characters, span, rendered.text)
            mask[first:last] = 1
        if spans and spans[-1][1] >= len(rendered.text.rstrip()):
            ids, mask = self._ended(ids, mask)
        return self._finish(ids, mask)

    def everything(self, text: str) -> Encoded:
        """A conversation or text of which every token is a target."""
        ids, _ = self._encode_marked(text)
        return self._finish(ids, np.ones(len(ids), dtype=np.uint8))

    def plain(self, prompt: str, text: str) -> Encoded:
        """A prompt (not a target) and its continuation with EOS (the target), without a template.

        Control tokens in either stay text.
        """
        head = self._as_text(prompt) if prompt else []
        body = self._as_text(text)
        mask = np.array([0] * len(head) + [1] * len(body), dtype=np.uint8)
        return self._finish(*self._ended(head + body, mask))

    def prompt(self, text: str, *, plain: bool) -> Ids:
        """A prompt alone, as it stands in front of an answer. ``plain``: as `plain` writes it."""
        ids = self._as_text(text) if plain else self._encode_marked(text)[0]
        return [int(i) for i in self._finish(ids, np.zeros(len(ids), dtype=np.uint8)).input_ids]

    def _as_text(self, text: str) -> Ids:
        if known := self._known.get((text, True)):
            return known[0]
        encoded = self._encode(text, split_special_tokens=True)
        return list(encoded["input_ids"])

    def _characters(self, encoding: Encoding) -> Characters:
        return InOrder(encoding) if self._in_order else Listed(encoding.offsets)

    def _tokens(self, ids: Ids, characters: Characters, span: Span, text: str) -> Span:
        """The token range of a character span, from its first token to its end-of-turn token."""
        end = span[1]
        first, last = characters.tokens(span)
        if first == last:
            return (0, 0)
        for position in range(last - 1, first - 1, -1):
            if ids[position] in self._control:
                if not text[characters[position][1] : end].strip():
                    return (first, position + 1)
                break  # one within the answer
        if last < len(ids) and ids[last] in self._end_of_turn:
            last += 1
        return (first, last)

    def _ended(self, ids: Ids, mask: Mask) -> tuple[Ids, Mask]:
        """Without an end-of-turn token the model would never learn to stop: add EOS as a target."""
        targets = np.flatnonzero(mask)
        if self._eos is None or (len(targets) and ids[int(targets[-1])] in self._control):
            return ids, mask
        return [*ids, self._eos], np.append(mask, np.uint8(1))

    def _finish(self, ids: Ids, mask: Mask) -> Encoded:
        if self._bos is not None:
            while ids[1:2] == [self._bos] and ids[0] == self._bos:
                ids, mask = ids[1:], mask[1:]
            if ids[:1] != [self._bos]:
                ids, mask = [self._bos, *ids], np.append(np.uint8(0), mask)
        if len(mask):
            mask[0] = 0
        return Encoded(np.asarray(ids, dtype=np.int32), mask.astype(np.uint8))

    def _encode_marked(self, text: str) -> tuple[Ids, Characters]:
        """Ids and characters of a rendered text; marked control tokens become plain text."""
        if not _is_marked(text):
            if known := self._known.get((text, False)):
                return known
            encoded = self._encode(text)
            return list(encoded["input_ids"]), self._characters(encoded.encodings[0])
        ids: Ids = []
        offsets: list[Span] = []
        at, as_text = 0, False
        while at < len(text):
            marker = min((i for m in (_START, _END) if (i := text.find(m, at)) >= 0), default=None)
            end = len(text) if marker is None else marker
            for piece_start, piece in self._pieces(text[at:end], at, as_text):
                piece_ids, piece_offsets = self._encode_piece(piece, piece_start, as_text)
                ids += piece_ids
                offsets += piece_offsets
            as_text = marker is not None and text[marker] == _START
            at = end + 1
        return ids, Listed(offsets)

    def _pieces(self, piece: str, at: int, as_text: bool) -> list[tuple[int, str]]:
        if not piece:
            return []
        if (
            as_text
            and self._tokenizer.convert_tokens_to_ids(piece)
            in (self._encode_piece(piece, at, as_text)[0])
        ):
            # Added tokens that are not special are matched even so; broken in two they are not.
            return [(at, piece[:1]), (at + 1, piece[1:])]
        return [(at, piece)]

    def _encode_piece(self, piece: str, at: int, as_text: bool) -> tuple[Ids, list[Span]]:
        """A piece from the middle of a text; behind a newline, lest a space is put in front."""
        lead = self._encode("\n")["input_ids"] if at else []
        encoded = self._encode("\n" * bool(lead) + piece, split_special_tokens=as_text)
        ids, offsets = list(encoded["input_ids"]), encoded.encodings[0].offsets
        if ids[: len(lead)] == lead:
            shift = at - bool(lead)
            ids, offsets = ids[len(lead) :], offsets[len(lead) :]
        else:
            encoded = self._encode(piece, split_special_tokens=as_text)
            ids, offsets, shift = list(encoded["input_ids"]), encoded.encodings[0].offsets, at
        return ids, [(a + shift, b + shift) for a, b in offsets]


def _is_marked(text: str) -> bool:
    return _START in text or _END in text


def _groups(written: Iterable[Written]) -> Iterator[list[Written]]:
    group: list[Written] = []
    size = 0
    for sample in written:
        group.append(sample)
        size += sum(map(len, sample.texts()))
        if size >= _CHARS_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group
