"""A kernel that keeps samples apart in a single row, and mixes them in a batch of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from unit.trainer.self_test.test_packing import Unsharded
from unit.trainer.train.tiny import random_rows, tiny_llama, write_rows

from finetune_trainer.prepare.store import PackedDataset
from finetune_trainer.self_test.packing import packing_fault
from finetune_trainer.self_test.pieces import pieces_of


class OnlySingleRows(Unsharded):
    def __call__(self, **inputs: Any) -> Any:
        ids = inputs["input_ids"]
        starts = (inputs["position_ids"] == 0).sum(1)
        if len(ids) > 1 and (starts > 1).any():
            inputs["attention_mask"] = torch.ones_like(ids)
        return super().__call__(**inputs)


def test_trap_s01_two_packed_rows_in_a_batch_are_part_of_the_self_test(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [7, 9], [5]]))
    pieces = pieces_of(PackedDataset(tmp_path / "rows"))
    for kind, sound in ((Unsharded, True), (OnlySingleRows, False)):
        engine: Any = kind(tiny_llama().eval())
        fault, _ = packing_fault(engine, pieces, logits_to_keep=True)
        assert (fault is None) == sound
