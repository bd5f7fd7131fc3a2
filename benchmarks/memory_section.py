"""The section "Memory": what the memory plan predicts for a rank against what it needed, on CPU."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import memory, trainer
from benchmarks.memory import Configuration, Outcome
from benchmarks.record import Section
from local_cluster.images.model import load_model_file

GOAL = 0.15


def _llama(hidden: int, layers: int, intermediate: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    } | more


def _gpt2(width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_embd": width,
        "n_layer": layers,
        "n_head": width // 64,
        "vocab_size": 50_257,
        "n_positions": 1024,
    }


def _lora(rank: int, dropout: str = "0.0") -> dict[str, Any]:
    return {"rank": rank, "alpha": 2 * rank, "dropout": dropout}


CHECKPOINTING = {"activationCheckpointing": True}
SGD = {"optimizer": {"type": "SGD"}}
WIDE, DEEP = _llama(768, 6, 2048), _llama(384, 20, 1024)
QWEN3 = _llama(512, 8, 1536, model_type="qwen3", head_dim=64, vocab_size=60_000)
UNTIED = _llama(640, 4, 1792, tie_word_embeddings=False)

CALIBRATION = (
    Configuration("almost no model", _llama(128, 1, 128), stage=0, ranks=1, micro=1, tokens=128),
    Configuration("Llama, full, ZeRO-0", _llama(512, 6, 1536), 0, 1, 1, 256),
    Configuration("Llama, full, ZeRO-2", _llama(512, 6, 1536), 2, 2, 2, 256),
    Configuration("Llama, full, ZeRO-3", _llama(512, 6, 1536), 3, 2, 1, 256),
    Configuration("Llama, LoRA, ZeRO-2", _llama(512, 6, 1536), 2, 2, 4, 256, lora=_lora(16)),
    Configuration("GPT-2, full, ZeRO-1", _gpt2(512, 6), 1, 2, 2, 256, accumulation=2),
)
"""What the constants of the plan were adjusted on."""

HELD_OUT = (
    Configuration("Llama 768×6, full, ZeRO-0, one rank", WIDE, 0, 1, 2, 384),
    Configuration("Llama 768×6, full, ZeRO-1", WIDE, 1, 2, 1, 512),
    Configuration("Llama 768×6, full, ZeRO-2, accumulation 2", WIDE, 2, 2, 1, 384, accumulation=2),
    Configuration("Llama 768×6, full, ZeRO-3, three ranks", WIDE, 3, 3, 1, 384),
    Configuration("Llama 768×6, full, SGD, ZeRO-2", WIDE, 2, 2, 2, 256, training=SGD),
    Configuration(
        "Llama 384×20, full, ZeRO-2, checkpointing", DEEP, 2, 2, 4, 256, training=CHECKPOINTING
    ),
    Configuration("Llama 384×20, LoRA r8, ZeRO-2", DEEP, 2, 2, 4, 256, lora=_lora(8)),
    Configuration(
        "Llama 384×20, LoRA r64, dropout, ZeRO-1", DEEP, 1, 2, 2, 384, lora=_lora(64, "0.1")
    ),
    Configuration("GPT-2 768×8, full, ZeRO-0, one rank", _gpt2(768, 8), 0, 1, 1, 512),
    Configuration("GPT-2 768×8, LoRA r16, ZeRO-2", _gpt2(768, 8), 2, 2, 3, 384, lora=_lora(16)),
    Configuration("Qwen3 512×8, full, ZeRO-2, saves beside it", QWEN3, 2, 2, 1, 512, saves=True),
    Configuration("Llama 640×4, own head, full, ZeRO-1, saves", UNTIED, 1, 2, 2, 256, saves=True),
)
"""What it is judged by."""

SETS = {"held-out": HELD_OUT, "calibration": CALIBRATION}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", choices=SETS, default="held-out", help="which configurations")
    parser.add_argument("--only", default="", help="those with this text in their name")


def _measure(options: argparse.Namespace) -> str:
    found = []
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        workspace = Path(folder)
        model = load_model_file(workspace / "carrier")
        trainer.prepare(workspace, model)
        for configuration in SETS[options.set]:
            if options.only not in configuration.name:
                continue
            outcome = memory.measure(configuration, workspace / "model", workspace / "run")
            print(memory.as_json(outcome), flush=True)
            found.append(outcome)
    return text(found)


def text(found: list[Outcome]) -> str:
    """The table, with the worst of all by name."""
    worst = max(found, key=lambda outcome: abs(outcome.error))
    within = sum(abs(outcome.error) <= GOAL for outcome in found)
    rows = [
        f"| {one.name} | {one.parameters / 1e6:.0f} M | {_gb(one.measured)} | {_gb(one.predicted)} "
        f"| {one.error:+.0%} | {_largest(one)} |"
        for one in found
    ]
    return f"""
Random weights in FP32; pods of one rank with one thread, as in the cluster. Measured: the most
anonymous and shared memory that a rank and its launcher held, from start to end of {memory.STEPS}
optimizer steps; of the rank that needed most. Predicted: `status.resolved.memory`, from the report
of prepare. None of these configurations was looked at when constants were chosen.

| configuration | parameters | measured | predicted | off by | largest parts of the prediction |
|---|---|---|---|---|---|
{chr(10).join(rows)}

**{within} of {len(found)}** within {GOAL:.0%}; the worst is {worst.name}: {worst.error:+.0%}.
"""


def _largest(outcome: Outcome) -> str:
    parts = sorted(outcome.parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {_gb(size)}" for name, size in parts)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


SECTION = Section("Memory", _measure, _add_options)
