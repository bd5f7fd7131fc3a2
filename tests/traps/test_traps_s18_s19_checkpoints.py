"""Whose checkpoint it is, and who writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import finetune_trainer
from finetune_trainer import manifest
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.errors import NoValidCheckpoint
from finetune_trainer.lineage import Parent

SOURCES = sorted(Path(finetune_trainer.__file__).parent.rglob("*.py"))
BANNED = ("save_16bit_model", "save_checkpoint(", "load_checkpoint(", "torchrun")
"""They write nothing and say so in a return value, or claim success whatever happened."""


def test_trap_s18_a_checkpoint_of_another_base_model_is_refused(tmp_path: Path) -> None:
    manifest.write(tmp_path, {"files": {}, "identity": {"model": "sha256:a", "seed": 1}})
    unused: Any = None
    checkpoints = Checkpoints(
        tmp_path, 1, unused, keep=1, identity={"model": "sha256:b", "seed": 1}
    )
    with pytest.raises(NoValidCheckpoint, match="model was 'sha256:a' and is 'sha256:b'"):
        checkpoints.load(unused, Parent(0, 4, "digest", tmp_path))


@pytest.mark.parametrize("name", BANNED)
def test_trap_s19_what_fails_in_silence_is_never_called(name: str) -> None:
    callers = [path.name for path in SOURCES if name in path.read_text(encoding="utf-8")]
    assert callers == []
