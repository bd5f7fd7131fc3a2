"""The packed dataset on the volume: how it is written and how the training loop reads it.

Layout of one split, ``<workspace>/data/train``, ``…/eval`` or ``…/general``; all files are plain
``.npy`` arrays, so every rank maps them and nothing is loaded before it is used::

    input_ids.npy       int32 [T]    token ids of all rows, back to back, in row order
    supervised.npy      uint8 [T]    1 where the token is a training target, else 0
    row_offsets.npy     int64 [R+1]  row i holds tokens row_offsets[i] .. row_offsets[i+1]
    segment_offsets.npy int64 [S+1]  segment j holds tokens segment_offsets[j] .. [j+1]
    row_segments.npy    int64 [R+1]  row i holds segments row_segments[i] .. row_segments[i+1]
    segment_samples.npy int64 [S]    the sample behind each segment: its number in the sources
    row_supervised.npy  int64 [R]    number of targets in each row
    row_sources.npy     int64 [R]    the data source of each row; not of train, whose rows mix them

T tokens, R rows, S segments. A segment is one sample, or a piece of one under ``overlong: Split``.
The first token of a segment is never a target: its predecessor belongs to another sample (or does
not exist). Therefore ``row_supervised`` already is the count after the causal shift, and the
tokens of one optimizer step are known by adding a few of its entries.

Rows are not padded and stand in a fixed order; shuffling is the loop's, as a function of seed and
epoch. The folder ``data`` appears by one rename, so a reader never sees half of it.
"""

from __future__ import annotations

import os
from array import array as compact
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Label of a token that is not a target (the default ``ignore_index`` of torch)."""

_NPY_HEADER_BYTES = 128

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens, T ≤ ``sequence_length``.

    ``labels`` are not shifted: ``labels[t]`` is ``input_ids[t]`` or ``IGNORE``, and position t − 1
    predicts it. ``position_ids`` restart at 0 in every segment.
    """

    input_ids: torch.Tensor
    """int64 [T]"""
    position_ids: torch.Tensor
    """int64 [T]"""
    labels: torch.Tensor
    """int64 [T]"""
    segment_lengths: tuple[int, ...]
    num_supervised: int


class PackedDataset:
    """Memory-mapped rows of one split. Opening costs no more than the small index arrays.

    Raises ``FileNotFoundError`` where the split was never written. A split without rows is valid
    (``len`` 0): evaluation may be switched off by an ``evalFraction`` of 0.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._input_ids = _map(folder / "input_ids.npy")
        self._supervised = _map(folder / "supervised.npy")
        self._row_offsets: _Ints = np.load(folder / "row_offsets.npy")
        self._segment_offsets: _Ints = np.load(folder / "segment_offsets.npy")
        self._row_segments: _Ints = np.load(folder / "row_segments.npy")
        self._segment_samples = _map(folder / "segment_samples.npy")
        self.num_supervised: _Ints = np.load(folder / "row_supervised.npy")
        """int64 [R]: number of targets in each row."""
        mixed = not (folder / "row_sources.npy").exists()
        self.row_sources: _Ints | None = None if mixed else np.load(folder / "row_sources.npy")
        """int64 [R]: number of each row's source in the job; None: rows mix them."""

    def __len__(self) -> int:
        return len(self.num_supervised)

    @property
    def row_lengths(self) -> _Ints:
        """int64 [R]: number of tokens in each row."""
        return np.diff(self._row_offsets)

    @property
    def num_pairs(self) -> _Ints:
        """int64 [R]: pairs of tokens of one segment in each row, a token with itself too."""
        lengths = np.diff(self._segment_offsets)
        upto = np.concatenate([[0], np.cumsum(lengths * (lengths + 1) // 2)])
        return np.diff(upto[self._row_segments])

    @property
    def num_tokens(self) -> int:
        return int(self._row_offsets[-1])

    def row(self, index: int) -> Row:
        """Row ``index``, 0 ≤ index < len. Raises ``IndexError`` otherwise."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.folder}")
        first, last = self._row_offsets[index], self._row_offsets[index + 1]
        ids = torch.from_numpy(self._input_ids[first:last].astype(np.int64))
        targets = torch.from_numpy(self._supervised[first:last].astype(bool))
        segments = self._segment_lengths(index)
        return Row(
            input_ids=ids,
            position_ids=torch.cat([torch.arange(length) for length in segments]),
            labels=torch.where(targets, ids, IGNORE),
            segment_lengths=segments,
            num_supervised=int(self.num_supervised[index]),
        )

    def samples(self, index: int) -> tuple[int, ...]:
        """Numbers of the samples in row ``index``, to name the data behind a bad step."""
        first, last = self._row_segments[index], self._row_segments[index + 1]
        return tuple(int(sample) for sample in self._segment_samples[first:last])

    def __iter__(self) -> Iterator[Row]:
        return (self.row(index) for index in range(len(self)))

    def _segment_lengths(self, index: int) -> tuple[int, ...]:
        first, last = self._row_segments[index], self._row_segments[index + 1]
        return tuple(int(n) for n in np.diff(self._segment_offsets[first : last + 1]))


@dataclass(frozen=True)
class Segment:
    """A tokenised sample (or a piece of one) before it is written. All of one length."""

    input_ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.uint8]
    sample: int


def write_split(
    folder: Path,
    rows: Iterable[list[Segment]],
    num_tokens: int,
    row_sources: Sequence[int] | None = None,
) -> None:
    """Write rows of segments as one split into the new folder ``folder``. Raises ``OSError``.

    ``num_tokens`` is the number of tokens over all rows; it is known from the packing plan and lets
    the token files be filled in place, without the data set in memory.
    """
    folder.mkdir(parents=True)
    input_ids = _create(folder / "input_ids.npy", np.dtype(np.int32), num_tokens)
    supervised = _create(folder / "supervised.npy", np.dtype(np.uint8), num_tokens)
    row_offsets, segment_offsets, row_segments = (compact("q", [0]) for _ in range(3))
    segment_samples, row_supervised = compact("q"), compact("q")
    at = 0
    for row in rows:
        start = at
        for segment in row:
            end = at + len(segment.input_ids)
            input_ids[at:end] = segment.input_ids
            supervised[at:end] = segment.supervised
            supervised[at] = 0
            segment_offsets.append(end)
            segment_samples.append(segment.sample)
            at = end
        row_offsets.append(at)
        row_segments.append(len(segment_samples))
        row_supervised.append(int(supervised[start:at].sum()))
    if at != num_tokens:
        raise ValueError(f"the rows hold {at} tokens, planned were {num_tokens}")
    _flush(input_ids, supervised)
    index: dict[str, Sequence[int]] = {
        "row_offsets": row_offsets,
        "segment_offsets": segment_offsets,
        "row_segments": row_segments,
        "segment_samples": segment_samples,
        "row_supervised": row_supervised,
    }
    if row_sources is not None:
        index["row_sources"] = row_sources
    for name, values in index.items():
        np.save(folder / f"{name}.npy", np.asarray(values, dtype=np.int64))


def _map(path: Path) -> npt.NDArray[np.generic]:
    # An array without elements cannot be mapped.
    empty = path.stat().st_size <= _NPY_HEADER_BYTES
    array: npt.NDArray[np.generic] = np.load(path, mmap_mode=None if empty else "r")
    return array


def _create(path: Path, dtype: np.dtype[np.generic], size: int) -> npt.NDArray[np.generic]:
    if size == 0:
        empty = np.zeros(0, dtype=dtype)
        np.save(path, empty)
        return empty
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))
    # The file is a hole until here. On a full disk a write into a mapped hole ends the process
    # with SIGBUS; this raises OSError.
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _flush(*arrays: npt.NDArray[np.generic]) -> None:
    for array in arrays:
        if isinstance(array, np.memmap):
            array.flush()
