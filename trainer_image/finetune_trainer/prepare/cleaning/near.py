"""Texts that are almost the same: MinHash and locality-sensitive hashing, then a real comparison.

A text is the set of its 8-byte pieces. MinHash (rensa) finds pairs that are probably alike without
comparing all with all; each pair found is then compared piece by piece, so what is reported is the
true share of common pieces, and chance decides only about what is overlooked (under 5 % of the
pairs that just reach the similarity). Hashes lie on disk; memory holds one band at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rensa import RMinHash  # type: ignore[import-untyped]

_PIECE = 8
_MAX_BYTES = 64 * 1024
"""Of longer texts the beginning is compared."""
_HASHES = 128
_SEED = 20250
_BATCH_BYTES = 2**20
"""Of texts whose pieces, eight times as much, are in memory together: few are much faster."""
_FOUND = 0.95

Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def plain(text: str) -> bytes:
    """What is compared: blind to case and to the amount of white space."""
    return " ".join(text[:_MAX_BYTES].lower().split()).encode()[:_MAX_BYTES]


class Sketches:
    """The hashes of many texts in bands: texts that agree in any band are candidates."""

    def __init__(self, folder: Path, similarity: float, texts: Iterable[bytes]) -> None:
        """Reads all ``texts``; text number n is row n of every band."""
        folder.mkdir(parents=True, exist_ok=True)
        self._rows_in_band = _rows_in_band(similarity)
        self._paths = [folder / f"band-{i}" for i in range(_HASHES // self._rows_in_band)]
        files = [path.open("wb") for path in self._paths]
        try:
            for batch in _batches(texts):
                bands = self._bands(batch)
                for number, file in enumerate(files):
                    # Not tofile, whose error does not say that the disk is full.
                    file.write(bands[:, number].tobytes())
        finally:
            for file in files:
                file.close()

    def __iter__(self) -> Iterator[Hashes]:
        return (np.fromfile(path, dtype=np.uint64) for path in self._paths)

    def _bands(self, texts: list[bytes]) -> Hashes:
        pieces, offsets = _pieces(texts)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(pieces, offsets, _HASHES, _SEED)
        hashes = np.asarray(matrix.to_rows(), dtype=np.uint64)
        hashes = hashes.reshape(len(texts), -1, self._rows_in_band)
        bands = np.zeros(hashes.shape[:2], dtype=np.uint64)
        for column in range(self._rows_in_band):
            bands = mixed(bands ^ hashes[:, :, column])
        return bands


def pairs_within(sketches: Sketches, among: Mask) -> Iterator[Pairs]:
    """Candidates (earlier, later) of each band, of the texts that ``among`` marks: a text with
    the one before it and with the first one of those that share its hash."""
    chosen = np.flatnonzero(among)
    for hashes in sketches:
        order, first = _runs(hashes[chosen], np.zeros(len(chosen), dtype=bool))
        later = np.flatnonzero(first != np.arange(len(order)))
        before = np.stack([order[later - 1], order[later]], axis=1)
        beginning = np.stack([order[first[later]], order[later]], axis=1)
        yield chosen[np.unique(np.concatenate([before, beginning]), axis=0)]


def pairs_across(sketches: Sketches, among: Mask, side: Mask) -> Iterator[Pairs]:
    """Candidates (text not on ``side``, text on it) of each band, of the texts that ``among``
    marks: each with the nearest and with the farthest one opposite that share its hash."""
    chosen = np.flatnonzero(among)
    for hashes in sketches:
        order, first = _runs(hashes[chosen], side[chosen])
        last = _last_of_runs(first)
        # Within a run, those on the side come behind all others.
        opposite = ~side[chosen][order]
        counts = np.concatenate([[0], np.cumsum(opposite)])
        border = first + counts[last + 1] - counts[first]
        at = np.flatnonzero((border > first) & (border <= last))
        nearest = np.where(opposite[at], border[at], border[at] - 1)
        farthest = np.where(opposite[at], last[at], first[at])
        found = np.concatenate([np.stack([at, nearest], 1), np.stack([at, farthest], 1)])
        yield chosen[order[np.unique(np.sort(found, axis=1), axis=0)]]


def likeness(one: bytes, other: bytes) -> float:
    """The share of 8-byte pieces that two texts have in common (Jaccard), from 0 to 1."""
    first, second = _distinct(one), _distinct(other)
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _distinct(text: bytes) -> Hashes:
    # Much faster than numpy's unique, which hashes first.
    pieces = np.sort(_pieces([text])[0])
    new = np.ones(len(pieces), dtype=bool)
    new[1:] = pieces[1:] != pieces[:-1]
    return pieces[new]


class Likeness:
    """Likeness of texts by their number; remembers some of those asked for."""

    def __init__(self, text: Callable[[int], bytes]) -> None:
        self._text = text
        self._recent: dict[int, bytes] = {}

    def __call__(self, one: int, other: int) -> float:
        return likeness(self._of(one), self._of(other))

    def _of(self, row: int) -> bytes:
        if row not in self._recent:
            if len(self._recent) >= 256:
                self._recent.clear()
            self._recent[row] = self._text(row)
        return self._recent[row]


def _runs(hashes: Hashes, side: Mask) -> tuple[Pairs, Pairs]:
    """Texts sorted by hash, side and number; and for each position where its run of equals
    begins."""
    order = np.lexsort((side, hashes))
    ordered = hashes[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return order, np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))


def _last_of_runs(first: Pairs) -> Pairs:
    ends = np.ones(len(first), dtype=bool)
    ends[:-1] = first[1:] != first[:-1]
    positions = np.where(ends, np.arange(len(first)), len(first))
    return np.minimum.accumulate(positions[::-1])[::-1]


def _rows_in_band(similarity: float) -> int:
    """The most selective banding that still finds nearly all pairs of this similarity."""
    for rows in (32, 16, 8, 4, 2):
        if 1 - (1 - similarity**rows) ** (_HASHES // rows) >= _FOUND:
            return rows
    return 1


def _batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES or len(batch) >= 8192:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(texts: list[bytes]) -> tuple[Hashes, Pairs]:
    """All overlapping 8-byte pieces, hashed, and where those of each text begin."""
    padded = [text.ljust(_PIECE, b"\0") for text in texts]
    lengths = np.fromiter((len(text) for text in padded), dtype=np.int64, count=len(padded))
    content = b"".join(padded)
    # Each begins one byte behind the one before.
    pieces = np.ndarray(len(content) - _PIECE + 1, "<u8", content, strides=(1,))
    starts = np.cumsum(lengths) - lengths
    inside = np.ones(len(pieces), dtype=bool)
    for shift in range(1, _PIECE):
        # Pieces that begin in the last bytes of a text reach into the next one.
        inside[starts[1:] - shift] = False
    offsets = np.concatenate([[0], np.cumsum(lengths - _PIECE + 1)])
    return mixed(pieces[inside].astype(np.uint64, copy=False)), offsets


def mixed(values: Hashes) -> Hashes:
    """A bijection that spreads similar numbers (the finalizer of splitmix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
