"""A few pieces of real samples, and how they are laid into batches: packed, and each alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from finetune_trainer.batches import IGNORE, Batch, PackedRow, PackedRows, collate

LONGEST = 16
"""Tokens of a piece: enough to mix with its neighbour, few enough to cost nothing."""
MOST = 3
_ROWS = 64
"""Rows that are looked at; data without any usable sample in these is left alone."""


@dataclass(frozen=True)
class Piece:
    """Up to ``LONGEST`` tokens of a sample around its first target; looks like a packed row."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)


def pieces_of(rows: PackedRows) -> list[Piece]:
    """At most ``MOST`` pieces, from the first rows; empty where no sample there has two tokens."""
    found: list[Piece] = []
    for index in range(min(len(rows), _ROWS)):
        for piece in _in_row(rows.row(index)):
            found.append(piece)
            if len(found) == MOST:
                return found
    return found


def alone(pieces: Sequence[Piece]) -> Batch:
    """Each in a row of its own."""
    return collate(pieces)


def packed(pieces: Sequence[Piece]) -> PackedRow:
    """All behind one another in one row."""
    return Piece(
        torch.cat([piece.input_ids for piece in pieces]),
        torch.cat([piece.position_ids for piece in pieces]),
        torch.cat([piece.labels for piece in pieces]),
    )


def other(piece: Piece) -> Piece:
    """Other tokens in the same number, without targets: another neighbour."""
    ids = piece.input_ids.flip(0).roll(1)
    if torch.equal(ids, piece.input_ids):
        ids = torch.where(ids > 0, ids - 1, ids + 1)
    return replace(untrained(piece), input_ids=ids)


def untrained(piece: Piece) -> Piece:
    return replace(piece, labels=torch.full_like(piece.labels, IGNORE))


def _in_row(row: PackedRow) -> Iterator[Piece]:
    starts = [*(row.position_ids == 0).nonzero().flatten().tolist(), len(row.input_ids)]
    for start, end in itertools.pairwise(starts):
        targets = (row.labels[start:end] != IGNORE).nonzero().flatten().tolist()
        # The first token of a sample has nothing in front of it.
        targets = [target for target in targets if target > 0]
        if targets:
            first = start + max(0, targets[0] - LONGEST // 2)
            part = slice(first, min(end, first + LONGEST))
            labels = row.labels[part].clone()
            labels[0] = IGNORE
            ids = row.input_ids[part]
            yield Piece(ids, torch.arange(len(ids)), labels)
