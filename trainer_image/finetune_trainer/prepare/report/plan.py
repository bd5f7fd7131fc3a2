"""What training will take, before a GPU is held: steps, tokens, and time at stated speeds.

How fast the machines are is not known here, so time is told for a few sustained speeds. Floating
point operations per token and parameter: 6 for full fine-tuning (2 forward, 4 backward), 4 for
LoRA, whose frozen weights need no gradient, 2 for evaluation (Kaplan et al. 2020, section 2.1).
Attention, recomputation under activation checkpointing, start-up and checkpoints are left out.
"""

from __future__ import annotations

from typing import Any

from finetune_trainer.config import RunConfig
from finetune_trainer.steps import planned_steps, steps_per_epoch

_SPEEDS = {"GPU": (50, 100, 200, 400), "CPU": (0.1, 0.3, 1.0)}
"""TFLOP/s of one rank. GPUs in bfloat16: about 40 % of the peak of A10, A100 (two) and H100."""


def plan_facts(
    config: RunConfig, parameters: int, sequences: int, tokens: int, eval_tokens: int
) -> dict[str, Any]:
    """``tokens`` of one pass over the ``sequences`` packed rows; ``eval_tokens`` of one
    evaluation."""
    steps = planned_steps(config, sequences)
    batch = config.global_batch_size
    per_epoch = steps_per_epoch(sequences, batch)
    epochs = steps / per_epoch
    evaluations = _evaluations(config, steps) if eval_tokens else 0
    trained = round(tokens * epochs)
    per_token = 6 if config.method.lora is None else 4
    flops = parameters * (per_token * trained + 2 * eval_tokens * evaluations)
    ranks = config.workers.world_size
    return {
        "steps": steps,
        "stepsPerEpoch": per_epoch,
        "epochs": round(epochs, 4),
        "globalBatchSize": batch,
        "tokensPerStep": round(tokens * batch / sequences) if per_epoch > 1 else tokens,
        "tokens": trained,
        "evaluations": evaluations,
        "parameters": parameters,
        "flops": float(f"{flops:.4g}"),
        "ranks": ranks,
        "device": config.workers.device,
        "times": [
            {"teraflops": speed, "seconds": round(flops / (speed * 1e12) / ranks)}
            for speed in _SPEEDS[config.workers.device]
        ],
    }


def _evaluations(config: RunConfig, steps: int) -> int:
    """Evaluations of the held-out rows: the untouched model, on the way, and the last."""
    every = config.evaluation.every_steps
    on_the_way = 0 if every is None else (steps - 1) // every
    return int(config.evaluation.baseline) + on_the_way + 1
