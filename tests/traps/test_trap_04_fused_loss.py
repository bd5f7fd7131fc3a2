"""A loss without all logits at once keeps the window's denominator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from unit.trainer.train.tiny import VOCABULARY, random_rows, tiny_llama, write_rows

from finetune_trainer.batches import IGNORE, collate
from finetune_trainer.fast import head as heads
from finetune_trainer.fast.head import head_of
from finetune_trainer.loss import loss_sum, shifted_targets
from finetune_trainer.prepare.store import PackedDataset


@pytest.mark.parametrize("fused", [False, True], ids=["short", "in chunks of two targets"])
def test_trap_04_the_short_head_has_the_gradient_of_plain_cross_entropy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [3], [7, 20], [5]]))
    data = PackedDataset(tmp_path / "rows")
    model = tiny_llama()
    head = head_of(model) if fused else None
    monkeypatch.setitem(heads.CHUNK_BYTES, "cpu", 2 * 4 * VOCABULARY)
    assert (head is not None and head.usable) == fused
    count = int(data.num_supervised.sum())
    for row in data:  # four micro-batches
        (loss_sum(model, collate([row]), logits_to_keep=True, head=head) / count).backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    batch = collate(list(data))
    logits = model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
    ).logits
    targets = shifted_targets(batch.labels)
    plain = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    plain.backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)
    assert float(plain.detach()) == pytest.approx(4.16, abs=0.1)
