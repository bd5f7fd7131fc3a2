"""The loss of packed rows is that of their samples, each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.tiny import random_rows, tiny_llama, write_rows

from finetune_trainer.batches import Batch, collate
from finetune_trainer.loss import accepts_logits_to_keep, loss_sum, shifted_targets
from finetune_trainer.prepare.store import PackedDataset

LENGTHS = [[7, 9], [5], [4, 3, 6]]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama().train()


def rows_of(folder: Path, lengths: list[list[int]], seed: int = 1) -> PackedDataset:
    write_rows(folder, random_rows(seed, lengths))
    return PackedDataset(folder)


def separate(model: Any, data: PackedDataset) -> torch.Tensor:
    """Each segment in a forward pass of its own, without any padding."""
    total = torch.zeros(())
    for row in data:
        at = 0
        for length in row.segment_lengths:
            part = slice(at, at + length)
            total = total + loss_sum(
                model,
                Batch(
                    row.input_ids[None, part], row.position_ids[None, part], row.labels[None, part]
                ),
                logits_to_keep=True,
            )
            at += length
    return total


def test_trap_05_and_s02_packed_rows_lose_what_their_samples_lose(
    model: Any, tmp_path: Path
) -> None:
    data = rows_of(tmp_path / "d", LENGTHS)
    packed = loss_sum(model, collate(list(data)), logits_to_keep=True)
    assert float(packed) == pytest.approx(float(separate(model, data)), rel=1e-6)


def test_trap_05_control_an_attention_mask_would_mix_the_samples(
    model: Any, tmp_path: Path
) -> None:
    data = rows_of(tmp_path / "d", LENGTHS)
    batch = collate(list(data))
    mask = torch.ones_like(batch.input_ids)

    def masked(**inputs: Any) -> Any:
        return model(attention_mask=mask, **inputs)

    leaked = loss_sum(masked, batch, logits_to_keep=True)
    assert abs(float(leaked) - float(separate(model, data))) > 1e-3


def test_trap_06_another_first_sample_leaves_the_second_ones_loss_alone(
    model: Any, tmp_path: Path
) -> None:
    rows = random_rows(1, [[7, 9]])
    other = random_rows(5, [[7]])
    rows[0][0].supervised[:] = 0
    changed = [[other[0][0], rows[0][1]]]
    changed[0][0].supervised[:] = 0
    losses = []
    for name, content in (("a", rows), ("b", changed)):
        write_rows(tmp_path / name, content)
        batch = collate([PackedDataset(tmp_path / name).row(0)])
        losses.append(float(loss_sum(model, batch, logits_to_keep=True)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_head_is_left_out_where_nothing_is_supervised_without_changing_the_loss(
    model: Any, tmp_path: Path
) -> None:
    batch = collate(list(rows_of(tmp_path / "d", LENGTHS)))
    sizes = []

    def counted(**inputs: Any) -> Any:
        output = model(**inputs)
        sizes.append(output.logits.shape[:-1].numel())
        return output

    short = loss_sum(counted, batch, logits_to_keep=True)
    full = loss_sum(counted, batch, logits_to_keep=False)
    assert float(short) == pytest.approx(float(full), rel=1e-6)
    assert sizes == [int((shifted_targets(batch.labels) != -100).sum()), batch.labels.numel()]


def test_a_batch_without_targets_loses_zero_and_has_a_zero_gradient() -> None:
    model = tiny_llama()
    loss = loss_sum(model, collate([]), logits_to_keep=True)
    loss.backward()
    assert float(loss) == 0.0
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_llama_can_leave_out_the_head_and_a_plain_module_cannot(model: Any) -> None:
    assert accepts_logits_to_keep(model)
    assert not accepts_logits_to_keep(torch.nn.Linear(2, 2))
