"""Hugging Face's Trainer on one GPU: ``python -m benchmarks.gpu_peer SETTINGS``.

With Liger's kernels and its loss in chunks, torch's own attention, and AdamW in one kernel. It
writes ``peer.json`` beside its settings: what `training_peers` tells, and the GPU's memory.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import training_data
from benchmarks.training_peers import MODES, trained
from finetune_trainer.config import Lora
from finetune_trainer.model import load_model, lora_config


@dataclass(frozen=True)
class Settings:
    """What it trains, and how."""

    mode: str
    """Of `MODES`."""
    model: str
    samples: str
    lora: dict[str, Any] | None
    micro: int
    """Samples of a micro-batch."""
    accumulation: int
    steps: int
    learning_rate: float
    checkpointing: bool
    sums: str
    """The type in which DeepSpeed's ZeRO-1, with fp32 masters of BF16 weights, adds gradients up;
    empty: torch's autocast, by the Trainer alone."""


def main(path: Path) -> None:
    settings = Settings(**json.loads(path.read_text()))
    torch.manual_seed(0)
    # Without DeepSpeed full fine-tuning keeps its weights in fp32, as masters.
    whole = settings.lora is None and not settings.sums
    arguments = transformers.TrainingArguments(
        output_dir=os.environ["TMPDIR"],
        bf16=True,
        deepspeed=_deepspeed(settings.sums) if settings.sums else None,
        use_liger_kernel=True,
        gradient_checkpointing=settings.checkpointing,
        per_device_train_batch_size=settings.micro,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        train_sampling_strategy=MODES[settings.mode],
        length_column_name="length",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    model: Any = load_model(
        Path(settings.model), torch.float32 if whole else torch.bfloat16, dropout=0.0
    )
    if settings.lora is not None:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(Lora.model_validate(settings.lora)))
    samples = training_data.load(Path(settings.samples))
    told = trained(arguments, samples, model, flattened=settings.mode == "packing")
    free, total = torch.cuda.mem_get_info()
    path.with_name("peer.json").write_text(json.dumps(asdict(told) | {"used": total - free}))


def _deepspeed(sums: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": sums},
        "zero_optimization": {"stage": 1},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
