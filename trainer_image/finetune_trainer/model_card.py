"""The README.md that goes with exported weights: what was trained, on what, with which result."""

from __future__ import annotations

from typing import Any

from finetune_trainer.config import Lora, RunConfig
from finetune_trainer.judging.table import TITLES

_HELD_OUT = {
    "evalLoss": "loss",
    "perplexity": "perplexity",
    "tokenAccuracy": "token accuracy",
}


def model_card(
    config: RunConfig, model: dict[str, Any], data: dict[str, Any], result: dict[str, Any]
) -> str:
    """Markdown with the front matter that model hubs read.

    ``model`` and ``data`` are the manifests of prepare, ``result`` is the train result; figures it
    does not have are left out.
    """
    noise = config.training.neftune_noise_alpha
    base = f"{model['source']}{'@' + model['commit'] if model.get('commit') else ''}"
    front = ["---", "library_name: transformers", "tags: [finetune-operator]"]
    if config.model.hub:
        front.append(f"base_model: {config.model.hub.repository}")
    facts = {
        "Base model": f"{base} ({model['architecture']}, {model['parameters']:,} parameters)",
        "Base model digest": model["digest"],
        "Method": _method(config.method.lora),
        "Noise on embeddings": None if noise is None else f"NEFTune, alpha {noise:g}",
        "Data digest": data["digest"],
        "Training samples": f"{data['kept']:,} ({data['supervisedTokens']:,} target tokens)",
        "Held-out samples": f"{data['evalRows']:,}",
        "Sequence length": data["sequenceLength"],
        "Global batch": f"{config.global_batch_size} packed rows",
        "Learning rate": config.training.learning_rate,
        "Seed": config.training.seed,
        "Optimizer steps": result.get("step"),
        "Weights of step": result.get("keptStep"),
    }
    lines = [
        *front,
        "---",
        "",
        f"# {config.job.name}",
        "",
        f"Fine-tuned by the FineTuneJob `{config.job.namespace}/{config.job.name}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items() if value is not None),
    ]
    lines += ["", "What was trained on: [data-report.html](data-report.html)."]
    if scores := _scores(result.get("metrics") or {}):
        lines += ["", "| held out | base | fine-tuned |", "|---|---|---|", *scores]
    if config.evaluation.generation:
        lines += ["", "Prompts, references and answers: [answers.html](answers.html)."]
    if config.gate and config.gate.human and config.gate.human.finding:
        lines.append(f"People compared them blind: {config.gate.human.finding}.")
    for name, signature in (result.get("signatures") or {}).items():
        lines.append(f"{TITLES[name]}: `{signature}`.")
    return "\n".join(lines) + "\n"


def _method(lora: Lora | None) -> str:
    if lora is None:
        return "full fine-tuning"
    stable = ", rank-stabilized" if lora.rslora else ""
    return f"{'DoRA' if lora.dora else 'LoRA'}, rank {lora.rank}{stable}"


def _scores(metrics: dict[str, Any]) -> list[str]:
    baseline = metrics.get("baseline") or {}
    return [
        f"| {name} | {_figure(baseline.get(key))} | {_figure(metrics[key])} |"
        for key, name in (*_HELD_OUT.items(), *TITLES.items())
        if key in metrics
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
