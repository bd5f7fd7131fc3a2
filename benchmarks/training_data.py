"""Chat data with a long tail, as numbers: the same samples for all who train on them.

Tokens are random, since speed does not depend on them: lengths are log-normal with a median of
about 120 tokens and a 95th percentile of about 600, cut at 1,024; the last two thirds of a sample
are its answer, and supervised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.pack import pack
from finetune_trainer.prepare.store import Segment, write_split

LONGEST = 1024
SHORTEST = 8
MEDIAN = 120
P95 = 600
ANSWER = 2 / 3
VOCABULARY = 49_000


@dataclass(frozen=True)
class Samples:
    """Tokenised samples, back to back."""

    ids: npt.NDArray[np.int32]
    """[T]"""
    ends: npt.NDArray[np.int64]
    """[S]: where each ends."""
    answer: float = ANSWER
    """The share of a sample, from its end, that is supervised."""

    @property
    def lengths(self) -> list[int]:
        return [int(length) for length in np.diff(self.ends, prepend=0)]

    def sample(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Its ids [L], and 1 where a token is supervised [L]."""
        begin = int(self.ends[number - 1]) if number else 0
        ids = self.ids[begin : self.ends[number]]
        targets = np.zeros(len(ids), dtype=np.uint8)
        targets[max(1, math.ceil(len(ids) * (1 - self.answer))) :] = 1
        return ids, targets

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, ends=self.ends, answer=self.answer)


def load(path: Path) -> Samples:
    arrays = np.load(path)
    return Samples(arrays["ids"], arrays["ends"], float(arrays["answer"]))


def long_tailed(count: int, seed: int = 1) -> Samples:
    random = np.random.default_rng(seed)
    sigma = math.log(P95 / MEDIAN) / 1.645  # of the normal distribution, its 95th percentile
    lengths = np.clip(random.lognormal(math.log(MEDIAN), sigma, count), SHORTEST, LONGEST)
    return drawn(lengths.astype(np.int64), random)


def full_rows(count: int, seed: int = 2) -> Samples:
    """Every sample fills a row by itself."""
    return drawn(np.full(count, LONGEST), np.random.default_rng(seed))


def drawn(
    lengths: npt.NDArray[np.int64], random: np.random.Generator, answer: float = ANSWER
) -> Samples:
    """Samples of these lengths, of random tokens."""
    ends = np.cumsum(lengths)
    return Samples(random.integers(1, VOCABULARY, int(ends[-1])).astype(np.int32), ends, answer)


def write_packed(samples: Samples, folder: Path, longest: int = LONGEST) -> int:
    """As the prepare stage leaves them in ``folder``. Returns the number of packed rows."""
    rows = pack(samples.lengths, longest)
    segments = [[Segment(*samples.sample(n), n) for n in row] for row in rows]
    write_split(folder, segments, int(samples.ends[-1]))
    return len(rows)


def write_nothing(folder: Path) -> None:
    """A split without rows: nothing is held out."""
    write_split(folder, [], 0)
