"""A claim that fills up during export: named as that, and nothing half-made is published."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from small_job import make_config
from unit.trainer.export.test_gguf import folder, prepared

from finetune_trainer import export
from finetune_trainer.errors import failure_class

__all__ = ["folder", "prepared"]
NAMES = {"Adapter": "adapter", "Merged": "merged", "GGUF": "gguf"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("kibibytes", [8, 64], ids=["header", "weights"])
@pytest.mark.parametrize("form", NAMES)
def test_a_full_disk_is_named_and_nothing_is_published(
    folder: Path, form: str, kibibytes: int
) -> None:
    small = folder / "ws/output"
    small.mkdir()
    options = f"size={kibibytes}k,huge=never"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", small], check=True)
    try:
        with pytest.raises(Exception) as caught:
            export.run(make_config(folder, output={"formats": [form]}), folder / "ws", small, 0)
        assert failure_class(caught.value).name == "DiskFull", caught.value
        assert not (small / NAMES[form]).exists()
    finally:
        subprocess.run(["umount", "-l", small], check=True)
