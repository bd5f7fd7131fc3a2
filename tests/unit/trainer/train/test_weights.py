"""What stands in an attempt's folder after training."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.trainer.train.tiny import tiny_llama

from finetune_trainer import weights


def test_weights_are_durable_before_they_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result that names them is synchronised; a power cut must not leave it without them."""
    synced: list[Path] = []
    monkeypatch.setattr(weights, "sync", synced.append)
    model, folder = tiny_llama(), tmp_path / "model"
    weights._write(model, model.state_dict(), folder)
    inside, names = synced[:-2], {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names
    assert {path.name for path in inside} == names
    temporary = tmp_path / "model.tmp"
    assert {path.parent for path in inside} == {temporary}
    assert synced[-2:] == [temporary, tmp_path]
