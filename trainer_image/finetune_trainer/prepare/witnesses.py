"""Samples that testify, in words, to what the mask covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from finetune_trainer.prepare.splits import Split
from finetune_trainer.prepare.store import Segment
from finetune_trainer.prepare.tokenize import Tokenization, Tokenized
from finetune_trainer.witness import Witness, plain

WITNESSES = 3
_CANDIDATES = 24
_LONGEST = 4096
"""Tokens; longer samples are not asked."""


def choose_witnesses(
    split: Split,
    tokenized: Tokenized,
    rows: Sequence[Sequence[int]],
    tokenization: Tokenization,
    decoder: Tokenizer,
) -> list[Witness]:
    """At most ``WITNESSES`` whole samples from all over the data, with where they were packed.

    Only samples whose tokens give back every word of them: others were cut, or the tokenizer
    changes letters, and could not tell a wrong mask from that.
    """
    spread = np.linspace(0, len(tokenized.kept) - 1, _CANDIDATES).round().astype(int)
    found: dict[int, Witness] = {}
    for place in dict.fromkeys(spread.reshape(WITNESSES, -1).T.ravel().tolist()):
        if tokenized.lengths[place] <= _LONGEST:
            segment = tokenized.segment(place)
            sample = split.samples[segment.sample]
            words = tokenization.words(sample["source"], sample["messages"])
            witness = _witness(sample["place"], segment, words, decoder)
            found |= {place: witness} if witness else {}
        if len(found) == WITNESSES:
            break
    return [
        replace(found[place], row=row, segment=segment)
        for row, places in enumerate(rows)
        for segment, place in enumerate(places)
        if place in found
    ]


def _witness(
    place: str, segment: Segment, words: Sequence[tuple[bool, str]], decoder: Tokenizer
) -> Witness | None:
    ids = segment.input_ids.tolist()
    end = ids[int(np.flatnonzero(segment.supervised)[-1])]
    if not words:  # the first token is never learnt, and all others are
        rest = decoder.decode(ids[1:], skip_special_tokens=True)
        return Witness(place, 0, 0, (rest,), (), end) if plain(rest) else None
    whole, at = plain(decoder.decode(ids, skip_special_tokens=True)), 0
    for learnt, text in words:
        start = whole.find(plain(text), at)
        if start < 0 or (learnt and start == 0):  # an answer without a token in front
            return None
        at = start + len(plain(text))
    answers = tuple(text for learnt, text in words if learnt)
    others = tuple(text for learnt, text in words if not learnt)
    return Witness(place, 0, 0, answers, others, end) if any(map(plain, answers)) else None
