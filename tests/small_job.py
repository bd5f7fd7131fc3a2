"""A job of the trainer, as small as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_trainer.config import RunConfig


def make_config(folder: Path, **changes: Any) -> RunConfig:
    """Model ``source`` and rows ``a.jsonl`` of ``folder``; ``changes`` replace sections."""
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "uid-one"},
            "model": {"path": str(folder / "source")},
            "data": {
                "train": [
                    {"name": "a", "field": "spec.data.train[0]", "path": str(folder / "a.jsonl")}
                ],
                "sequenceLength": 64,
            },
            "method": {"lora": {"rank": 4}},
            "training": {
                "epochs": 1,
                "microBatchSize": 1,
                "accumulation": 1,
                "learningRate": 0.01,
            },
            "zeroStage": 2,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
            "output": {"formats": ["Adapter", "Merged"]},
            **changes,
        }
    )
