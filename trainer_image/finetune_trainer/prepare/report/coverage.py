"""How near the held-out prompts are to what is trained on.

The likeness of two prompts is the cosine of their sets of tokens, each weighted by how rare it is
among the training rows (inverse document frequency, log N/df): 1 for the same words, 0 where they
share none but those of every row, such as the chat template's. Every training row is looked at, in
batches; memory holds one batch and a matrix of a few hundred prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.report.rows import Ints, Side
from finetune_trainer.prepare.workers import in_order

MAX_PROMPTS = 200
"""Held-out rows that are looked at: a fair sample."""
UNLIKE = 0.25
"""A prompt whose nearest training row is less like it than this resembles nothing."""
_COMMON = 0.2
"""Tokens in more of the training rows than this say nothing of what a prompt is about."""
_BATCH = 4000
_SHOWN = 5
_BINS = 10

Floats = npt.NDArray[np.float32]
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class _Bags:
    """Sets of tokens, back to back: those of segment n lie at starts[n] .. starts[n + 1]."""

    tokens: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1


def coverage(train: Side, held: Side, chosen: Ints, processes: int = 1) -> dict[str, Any] | None:
    """The likeness of held-out prompts (``chosen``: their samples) to their nearest training row.

    None where nothing is held out. A row without a prompt, as of format Completion, is its text.
    """
    first = _first_segments(held, chosen)
    if not len(first) or not len(train.tokenized.kept):
        return None
    prompts = _bags(held, first)
    frequency = _frequency(train, prompts, processes)
    count = len(train.tokenized.kept)
    weight = np.log(count / np.maximum(frequency, 1)).astype(np.float32)
    # What no training row has is the rarest of all.
    weight[frequency == 0] = np.log(count + 1)
    weight[frequency > max(1, _COMMON * count)] = 0
    best, nearest = _nearest(train, prompts, weight, processes)
    order = np.argsort(best, kind="stable")[:_SHOWN]
    places = held.split.samples.select_columns(["place"])
    of_train = train.split.samples.select_columns(["place"])
    unlike = int((best < UNLIKE).sum())
    return {
        "prompts": len(prompts),
        "unlike": unlike,
        "below": UNLIKE,
        "median": round(float(np.median(best)), 3),
        "histogram": np.histogram(best, _BINS, (0, 1))[0].tolist(),
        "least": [
            {
                "place": places[int(held.tokenized.samples[first[n]])]["place"],
                "likeness": round(float(best[n]), 3),
                "nearest": of_train[int(train.tokenized.samples[nearest[n]])]["place"],
            }
            for n in order.tolist()
        ],
    }


def _first_segments(side: Side, samples: Ints) -> Ints:
    """Where the first segment of each sample is; a fair sample's order is kept."""
    numbers, first = np.unique(side.tokenized.samples, return_index=True)
    return first[np.searchsorted(numbers, samples)]


def _bags(side: Side, places: Ints) -> _Bags:
    """The prompt tokens of the segments at these places of ``kept``; all, where all are learnt."""
    tokens, supervised, lengths = side.tokenized.segments(places)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    read = supervised == 0
    # The first token is never learnt.
    has_prompt = np.bincount(owner[read], minlength=len(lengths)) > 1
    read |= ~has_prompt[owner]
    # Much faster than numpy's unique, which hashes first.
    pairs = np.sort(owner[read] << 32 | tokens[read])
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    counts = np.bincount(pairs >> 32, minlength=len(lengths))
    return _Bags(pairs & (2**32 - 1), np.concatenate([[0], np.cumsum(counts)]))


def _of_batches(side: Side, work: Callable[[_Bags], _Found], processes: int) -> Iterator[_Found]:
    """What ``work`` makes of the segments of each batch, in their order."""
    places = np.arange(len(side.tokenized.kept))
    batches = (places[start : start + _BATCH] for start in range(0, len(places), _BATCH))
    return in_order(lambda batch: work(_bags(side, batch)), batches, processes)


def _frequency(train: Side, prompts: _Bags, processes: int) -> Ints:
    """In how many training rows each token is; long enough for the prompts' tokens, too."""
    frequency = np.zeros(int(prompts.tokens.max(initial=0)) + 1, dtype=np.int64)
    for counts in _of_batches(train, lambda bags: np.bincount(bags.tokens), processes):
        longer = np.zeros(max(len(counts), len(frequency)), dtype=np.int64)
        longer[: len(counts)] = counts
        longer[: len(frequency)] += frequency
        frequency = longer
    return frequency


def _nearest(train: Side, prompts: _Bags, weight: Floats, processes: int) -> tuple[Floats, Ints]:
    """For each prompt the likeness of its nearest training row, and that row's place."""
    vocabulary = np.unique(prompts.tokens[weight[prompts.tokens] > 0])
    index = np.zeros(len(weight), dtype=np.int64)
    index[vocabulary] = np.arange(1, len(vocabulary) + 1)
    matrix = np.zeros((len(vocabulary) + 1, len(prompts)), dtype=np.float32)
    owner = np.repeat(np.arange(len(prompts)), np.diff(prompts.starts))
    matrix[index[prompts.tokens], owner] = weight[prompts.tokens]
    matrix[0] = 0
    norms = _norms(prompts, weight)
    matrix *= weight[np.concatenate([[0], vocabulary])][:, None]
    matrix[0] = 0
    matrix /= np.maximum(norms, 1e-9)

    def alike(bags: _Bags) -> tuple[Floats, Ints]:
        likeness = _products(bags, index, matrix) / np.maximum(_norms(bags, weight), 1e-9)[:, None]
        top = likeness.argmax(axis=0)
        return likeness[top, np.arange(len(prompts))], top

    best, nearest = np.full(len(prompts), -1, np.float32), np.zeros(len(prompts), np.int64)
    for number, (value, top) in enumerate(_of_batches(train, alike, processes)):
        better = value > best
        best[better], nearest[better] = value[better], number * _BATCH + top[better]
    # A prompt of nothing but what every row has is like every row.
    best[norms == 0] = 1
    return np.clip(best, 0, 1), nearest


def _norms(bags: _Bags, weight: Floats) -> Floats:
    owner = np.repeat(np.arange(len(bags)), np.diff(bags.starts))
    squares = np.bincount(owner, weights=weight[bags.tokens] ** 2, minlength=len(bags))
    return np.sqrt(squares).astype(np.float32)


def _products(bags: _Bags, index: Ints, matrix: Floats) -> Floats:
    """Dot products of all bags with all prompts; ``index`` is 0 for tokens of no prompt."""
    owner = np.repeat(np.arange(len(bags)), np.diff(bags.starts))
    known = np.flatnonzero(index[bags.tokens])
    products = np.zeros((len(bags), matrix.shape[1]), dtype=np.float32)
    if len(known):
        owner = owner[known]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        products[owner[starts]] = np.add.reduceat(matrix[index[bags.tokens[known]]], starts)
    return products
