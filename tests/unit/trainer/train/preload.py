"""What the server of the gangs imports once, as the trainer itself imports it."""

from __future__ import annotations

import importlib

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
