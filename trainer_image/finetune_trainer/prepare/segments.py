"""The table of token segments while it is written: one row for each, or for a dropped sample."""

from __future__ import annotations

from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.prepare.encode import Encoded

FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "supervised": datasets.List(datasets.Value("uint8")),
        "sample": datasets.Value("int64"),
        "length": datasets.Value("int32"),
        "targets": datasets.Value("int32"),
        "last_target": datasets.Value("int32"),
        "rule": datasets.Value("string"),
        "reason": datasets.Value("string"),
        "cut": datasets.Value("bool"),
    }
)


class Segments:
    """Rows of the table, gathered one by one."""

    def __init__(self) -> None:
        self._ids: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
        self._masks: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        self._columns: dict[str, list[Any]] = {
            name: [] for name in FEATURES if name not in ("input_ids", "supervised")
        }

    def add(self, piece: Encoded, number: int, rule: str | None, cut: bool) -> None:
        targets = np.flatnonzero(piece.supervised)
        keep = rule is None
        self._ids.append(piece.input_ids if keep else piece.input_ids[:0])
        self._masks.append(piece.supervised if keep else piece.supervised[:0])
        self._append(
            {
                "sample": number,
                "length": len(piece.input_ids),
                "targets": len(targets),
                "last_target": int(piece.input_ids[targets[-1]]) if len(targets) else -1,
                "rule": rule,
                "reason": None,
                "cut": cut,
            }
        )

    def refuse(self, number: int, rule: str, reason: str) -> None:
        """A sample of which there are no tokens."""
        self._ids.append(np.zeros(0, np.int32))
        self._masks.append(np.zeros(0, np.uint8))
        self._append(
            {
                "sample": number,
                "length": 0,
                "targets": 0,
                "last_target": -1,
                "rule": rule,
                "reason": reason,
                "cut": False,
            }
        )

    def _append(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self._columns[name].append(value)

    def record(self) -> pyarrow.RecordBatch:
        offsets = np.cumsum([len(ids) for ids in self._ids], dtype=np.int32)
        lists: dict[str, list[npt.NDArray[Any]]] = {
            "input_ids": [*self._ids],
            "supervised": [*self._masks],
        }
        schema = FEATURES.arrow_schema
        arrays = [
            pyarrow.ListArray.from_arrays(offsets, np.concatenate(lists[field.name]))
            if field.name in lists
            else pyarrow.array(self._columns[field.name], field.type)
            for field in schema
        ]
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)
