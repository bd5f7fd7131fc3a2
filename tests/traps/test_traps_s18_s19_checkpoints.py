"""Whose checkpoint it is, and who writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model
from unit.trainer.prepare.test_stage import chat, config, write

import finetune_trainer
from finetune_trainer import manifest
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.errors import NoValidCheckpoint
from finetune_trainer.lineage import Parent
from finetune_trainer.prepare import stage
from finetune_trainer.session import identity

SOURCES = sorted(Path(finetune_trainer.__file__).parent.rglob("*.py"))
BANNED = ("save_16bit_model", "save_checkpoint(", "load_checkpoint(", "torchrun")
"""They write nothing and say so in a return value, or claim success whatever happened."""


def test_trap_s18_a_checkpoint_of_another_base_model_is_refused(tmp_path: Path) -> None:
    """Weights of the same shapes, the same rows, the same settings: only the numbers differ."""
    rows = write(tmp_path / "rows.jsonl", [chat(n) for n in range(3)])
    belongs = []
    for seed in (0, 1):
        model, workspace = tmp_path / f"model-{seed}", tmp_path / f"workspace-{seed}"
        job = config(save_tiny_model(model, seed=seed), rows, evalFraction=0)
        stage.run(job, workspace)
        belongs.append(identity(job, workspace))
    manifest.write(tmp_path, {"files": {}, "identity": belongs[0]})
    unused: Any = None
    checkpoints = Checkpoints(tmp_path, 1, unused, keep=1, identity=belongs[1])
    with pytest.raises(NoValidCheckpoint, match=r"model was 'sha256:\w+' and is 'sha256:\w+'$"):
        checkpoints.load(unused, Parent(0, 4, "digest", tmp_path))


@pytest.mark.parametrize("name", BANNED)
def test_trap_s19_what_fails_in_silence_is_never_called(name: str) -> None:
    callers = [path.name for path in SOURCES if name in path.read_text(encoding="utf-8")]
    assert callers == []
