"""What the server of the gangs imports once, as the trainer itself imports it."""

from __future__ import annotations

import importlib
from typing import Any

import loaded_once

from finetune_trainer import lean_imports

lean_imports.begin()
for name in (
    "unit.trainer.train.workers",
    "finetune_trainer.session",
    "finetune_trainer.prepare.stage",
    "deepspeed",
    "peft",
    "transformers.models.llama.modeling_llama",
):
    importlib.import_module(name)
lean_imports.end()

WHOLE_BELOW = 100
"""Elements of a weight that ZeRO 3 leaves whole between passes. DeepSpeed's own limit is above
every weight of a tiny model; with this one norms and biases stay whole, as in a large model."""


def _with_split_weights() -> None:
    from finetune_trainer import engine

    intended = engine.deepspeed_config

    def config(*arguments: Any, **rest: Any) -> dict[str, Any]:
        settings = intended(*arguments, **rest)
        if settings["zero_optimization"]["stage"] == 3:
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = WHOLE_BELOW
        return settings

    engine.deepspeed_config = config


_with_split_weights()
loaded_once.keep_identifier()
