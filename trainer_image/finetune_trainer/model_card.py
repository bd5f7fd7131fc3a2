"""The README.md of exported weights: what they are, how to load them, how good, made of what.

Its front matter is written by huggingface_hub, so that model hubs read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune_trainer.config import DataSource, Form, Lora, RunConfig
from finetune_trainer.judging.scorers import ScorerWords
from finetune_trainer.judging.table import TITLES
from finetune_trainer.lock import computing_besides
from finetune_trainer.model_loading import loading
from finetune_trainer.prepare.cleaning.rules import MEANINGS

_HELD_OUT = {
    "evalLoss": "loss",
    "perplexity": "perplexity",
    "tokenAccuracy": "token accuracy",
}
_LIBRARIES: Mapping[Form, str] = {
    "Adapter": "peft",
    "Merged": "transformers",
    "GGUF": "llama.cpp",
}
_KINDS: Mapping[Form, str] = {
    "Adapter": "A LoRA adapter for",
    "Merged": "A whole model, from",
    "GGUF": "A whole model as one GGUF file, from",
}
_GENERAL = {"generalLoss": "loss on general rows"}
_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "tokenizers")


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of: manifests of model and data, train result, and what export found."""

    config: RunConfig
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    gate: str | None = None
    """What the gate was passed by; None: there is none."""
    lock: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = True
    """The tokenizer has a chat template."""
    scorers: Sequence[ScorerWords] = ()


def model_card(facts: CardFacts, form: Form) -> str:
    """Markdown with front matter. Figures that ``facts`` do not have are left out."""
    config = facts.config
    lines = [
        "---",
        _front_matter(facts, form),
        "---",
        "",
        f"# {config.job.name}",
        "",
        f"{_what(facts, form)}, fine-tuned by the FineTuneJob "
        f"`{config.job.namespace}/{config.job.name}`.",
        "",
        *_section("How to load it", loading(config, facts.model, form, chat=facts.chat)),
        *_section("Scores on held-out rows", _scores(facts)),
        *_section("Paired prompts", _paired(facts)),
        *_section("Base model", _table(_base(facts))),
        *_section("Data", _data(facts)),
        *_section("Training", _table(_training(facts))),
        *_section("Versions", _table(_versions(config))),
        *_section("Lock", _lock(facts.lock)),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(facts: CardFacts, form: Form) -> str:
    config, model = facts.config, facts.model
    hub = config.model.hub
    sources = [source.hub.repository for source in config.data.train if source.hub]
    extra: dict[str, Any] = dict(model.get("licence") or {})
    if hub:
        extra["base_model_relation"] = "adapter" if form == "Adapter" else "finetune"
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=name.replace(" ", "_").lower(),
            metric_name=name,
            metric_value=round(value, 6),
        )
        for key, name in (*_HELD_OUT.items(), *TITLES.items())
        if isinstance(value := (facts.result.get("metrics") or {}).get(key), int | float)
        and math.isfinite(value)
    ]
    tags = ["lora"] if config.method.lora else []
    data = ModelCardData(
        library_name=_LIBRARIES[form],
        pipeline_tag="text-generation",
        tags=["finetune-operator", *tags, *(["gguf"] if form == "GGUF" else [])],
        base_model=hub.repository if hub else None,
        datasets=sources or None,
        model_name=config.job.name if results else None,
        eval_results=results or None,
        **extra,
    )
    return data.to_yaml().strip()


def _what(facts: CardFacts, form: Form) -> str:
    return f"{_KINDS[form]} {_name(facts)}"


def _name(facts: CardFacts) -> str:
    commit = facts.model.get("commit")
    return f"{facts.model['source']}{'@' + commit if commit else ''}"


def _section(title: str, body: list[str]) -> list[str]:
    return [f"## {title}", "", *body, ""] if body else []


def _table(facts: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return ["| | |", "|---|---|", *rows] if rows else []


def _base(facts: CardFacts) -> dict[str, Any]:
    model, licence = facts.model, facts.model.get("licence") or {}
    return {
        "Source": _name(facts),
        "Architecture": model["architecture"],
        "Parameters": f"{model['parameters']:,}",
        "Context": f"{length:,} tokens" if (length := model.get("contextLength")) else None,
        "Digest": model["digest"],
        "Licence": licence.get("license_name")
        or licence.get("license")
        or "not known: see the base model",
    }


def _scores(facts: CardFacts) -> list[str]:
    metrics = facts.result.get("metrics") or {}
    baseline = metrics.get("baseline") or {}
    rows = [
        f"| {name} | {_figure(baseline.get(key))} | {_figure(metrics[key])} |"
        for key, name in (*_HELD_OUT.items(), *_GENERAL.items(), *TITLES.items())
        if metrics.get(key) is not None
    ]
    lines = ["| held out | base | fine-tuned |", "|---|---|---|", *rows] if rows else []
    lines += _said(facts.scorers)
    if facts.gate:
        lines += ["", f"Published because {facts.gate} (`spec.gate`)."]
    if facts.config.evaluation.generation:
        lines += ["", "Prompts, references and answers: [answers.html](answers.html)."]
    gate = facts.config.gate
    if gate and gate.human and gate.human.finding:
        lines.append(f"People compared them blind: {gate.human.finding}.")
    for name, signature in (facts.result.get("signatures") or {}).items():
        lines.append(f"{TITLES[name]}: `{signature}`.")
    return lines


def _paired(facts: CardFacts) -> list[str]:
    """What training made of two terms."""
    found = {
        each["name"]: each for each in (facts.result.get("metrics") or {}).get("pairedPrompts", ())
    }
    rows = []
    for wish in facts.config.evaluation.paired_prompts:
        if told := found.get(wish.name):
            base = told.get("baseline") or {}
            sizes = [_figure(each.get("absoluteDifference")) for each in (base, told)]
            rows.append(
                f"| {wish.name}: {' against '.join(map(_cell, wish.terms))} | {told['pairs']} "
                f"| {_figure(base.get('difference'))} | {_figure(told.get('difference'))} "
                f"| {' → '.join(sizes)} |"
            )
    if not rows:
        return []
    return [
        "How much likelier an answer is with the first term than with the second, in nats "
        "(log-likelihood, mean over the pairs; below 0: less likely), and the mean size of that.",
        "",
        "| list | pairs | base | fine-tuned | size |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Pair by pair: [paired-prompts.jsonl](paired-prompts.jsonl).",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _said(scorers: Sequence[ScorerWords]) -> list[str]:
    """What programs of the user's said of the answers."""
    rows = [
        f"| {words.name}: {name} | {_figure(words.base.get(name))} | {_figure(value)} |"
        for words in scorers
        for name, value in words.tuned.items()
    ]
    failed = [f"Scorer {words.name} {words.failure}." for words in scorers if words.failure]
    table = ["", "| scorer | base | fine-tuned |", "|---|---|---|", *rows] if rows else []
    return [*table, *(["", *failed] if failed else [])]


def _data(facts: CardFacts) -> list[str]:
    data = facts.data
    rows = [
        f"| {report['name']} | {_origin(source, report)} "
        f"| {_cell(report.get('licence') or 'not known')} | {account['rows']:,} "
        f"| {account['kept']:,}{_drawn(account)} |"
        for source, report, account in zip(
            (*facts.config.data.train, *facts.config.data.eval, *facts.config.data.general),
            (*data["sources"], *data["evalSources"], *data.get("generalSources", ())),
            data["accounts"],
            strict=False,  # data that an older version prepared
        )
    ]
    counts = {
        "Digest": data["digest"],
        "Rows before and after `spec.data.augment`": _augmented(data),
        "Training samples": f"{data['kept']:,} ({data['supervisedTokens']:,} target tokens)",
        "Held-out samples": f"{data['evalRows']:,}",
        "General samples": f"{general:,}" if (general := data.get("generalRows")) else None,
        "Sequence length": f"{data['sequenceLength']:,} tokens",
    }
    warnings = list(_warnings(data))
    return [
        *_table(counts),
        "",
        "| source | from | licence | rows | kept |",
        "|---|---|---|---|---|",
        *rows,
        "",
        *(["Warnings:", "", *(f"- {warning}" for warning in warnings), ""] if warnings else []),
        "What was trained on, in full: [data-report.html](data-report.html).",
    ]


def _drawn(account: Mapping[str, Any]) -> str:
    return f" (drawn {account['drawn']:,} times an epoch)" if "drawn" in account else ""


def _augmented(data: Mapping[str, Any]) -> str | None:
    told = data.get("augment")
    return told and f"{told['rowsIn']:,} → {told['rowsOut']:,}"


def _origin(source: DataSource, report: Mapping[str, Any]) -> str:
    if source.hub:
        return f"{source.hub.repository}@{report.get('commit') or source.hub.revision}"
    if source.s3:
        return source.s3.uri
    files = ", ".join(report.get("files") or [])
    return (files[:100] or "–").replace("|", "\\|")


def _warnings(data: Mapping[str, Any]) -> Iterator[str]:
    if leaked := data.get("rowsInTrainAndEval"):
        yield f"{leaked:,} held-out rows are trained on, too: the scores flatter the model"
    for rule, count in (data.get("reported") or {}).items():
        yield f"{rule}: {count:,} rows were kept and reported ({MEANINGS.get(rule, rule)})"
    for rule, count in (data.get("dropped") or {}).items():
        yield f"{rule}: {count:,} rows were left out ({MEANINGS.get(rule, rule)})"
    if truncated := data.get("truncated"):
        yield f"{truncated:,} rows lost their end at the sequence length"
    yield from data.get("warnings", ())


def _training(facts: CardFacts) -> dict[str, Any]:
    config, result = facts.config, facts.result
    training, lora = config.training, config.method.lora
    noise = training.neftune_noise_alpha
    method = "full fine-tuning"
    if lora:
        targets = lora.target_modules
        where = "all linear layers" if targets == "AllLinear" else ", ".join(targets)
        method = f"{_variant(lora)}, alpha {lora.alpha}, dropout {lora.dropout:g}, {where}"
    schedule, optimizer = training.schedule, training.optimizer
    return {
        "Method": method,
        "Steps": result.get("step"),
        "Weights of step": result.get("keptStep"),
        "Epochs": training.epochs,
        "Global batch": f"{config.global_batch_size} packed rows on {config.workers.world_size} "
        "ranks",
        "Learning rate": f"{training.learning_rate:g}, {schedule.type}, warm-up "
        f"{schedule.warmup_fraction:g}, final {schedule.final_fraction:g}",
        "Optimizer": f"{optimizer.type}, weight decay {optimizer.weight_decay:g}",
        "Gradient norm at most": training.max_grad_norm or None,
        "Dropout": training.dropout or None,
        "Noise on embeddings": None if noise is None else f"NEFTune, alpha {noise:g}",
        "Precision": training.precision,
        "Frozen weights": "NF4 while it was trained and scored; published are those that they were "
        "made from"
        if config.method.quantized
        else None,
        "Loss on": config.data.loss_on,
        "ZeRO stage": config.zero_stage,
        "Offloaded to host memory": ", ".join(config.offload.parts) or None,
        "Seed": training.seed,
    }


def _variant(lora: Lora) -> str:
    stable = ", rank-stabilized" if lora.rslora else ""
    beside = f", beside {lora.quantization} weights" if lora.quantization else ""
    return f"{'DoRA' if lora.dora else 'LoRA'}, rank {lora.rank}{stable}{beside}"


def _versions(config: RunConfig) -> dict[str, str]:
    found = {}
    for package in (*_PACKAGES, *computing_besides(config)):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _lock(lock: Mapping[str, Any]) -> list[str]:
    if not lock:
        return []
    return ["```json", json.dumps(lock, indent=1, sort_keys=True), "```"]


def _figure(value: float | str | None) -> str:
    """``value``: a number, or the word for one that is not finite."""
    if isinstance(value, str):
        return value
    return "–" if value is None else f"{value:.4g}"
