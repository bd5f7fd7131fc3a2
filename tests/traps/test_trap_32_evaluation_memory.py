"""An evaluation holds the logits of one pass, never those of the passes before."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from unit.trainer.self_test.test_packing import Unsharded
from unit.trainer.train.tiny import random_rows, tiny_llama, write_rows

from finetune_trainer.evaluate import evaluate
from finetune_trainer.fast.head import head_of
from finetune_trainer.prepare.store import PackedDataset
from finetune_trainer.rendezvous import Place


class Alone:
    """The exchanges of a gang of one."""

    place = Place(0, 0, 1, "localhost", 1)

    def sums(self, *values: float) -> list[float]:
        return list(values)


@pytest.mark.parametrize("whole", [False, True], ids=["in chunks", "all logits at once"])
def test_trap_32_logits_are_gone_before_the_next_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    write_rows(tmp_path / "rows", random_rows(1, [[9]] * 6))
    engine: Any = Unsharded(tiny_llama())
    engine.head = None if whole else head_of(engine.model)
    assert whole or engine.head.usable
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    cross_entropy = functional.cross_entropy

    def watched(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(weakref.ref(logits))
        return cross_entropy(logits, *args, **kwargs)

    monkeypatch.setattr(functional, "cross_entropy", watched)
    gang: Any = Alone()
    result = evaluate(
        engine,
        gang,
        PackedDataset(tmp_path / "rows"),
        micro_batch_size=1,
        logits_to_keep=True,
        on_pass=lambda: alive.append(sum(logits() is not None for logits in seen)),
    )
    assert result is not None
    assert (len(seen), max(alive)) == (6, 0)
