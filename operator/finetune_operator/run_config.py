"""The content of run.json: all that the trainer is told, and nothing about Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api.types import (
    Baseline,
    Cleaning,
    FineTuneJobSpec,
    Generation,
    HumanEvaluation,
    PassedOver,
    Reuse,
    Switch,
    UserContainer,
)
from .destinations import destinations
from .engine.store import Key
from .fit_choice import device_of
from .memory_ladder import Fit
from .sources import (
    CHAT_TEMPLATE_PATH,
    MODEL,
    PUBLISHED,
    SOURCES,
    ResolvedOutput,
    Source,
    data_source,
    named_job,
)

CHECKPOINT_SECONDS = 1800
"""Between checkpoints of a job that does not say after how many steps: what a lost node costs.
Shorter trainings save nothing."""
METRICS_PORT = 9400
"""Where local rank 0 of a pod serves /healthz, /metrics and, in rank 0's pod, /progress."""


def run_config(
    key: Key,
    uid: str,
    spec: FineTuneJobSpec,
    sources: tuple[Source, ...],
    fit: Fit,
    learning_rate: float,
    passed_over: tuple[PassedOver, ...] = (),
    *,
    outputs: Mapping[str, ResolvedOutput] | None = None,
    accepted: HumanEvaluation | None = None,
) -> dict[str, Any]:
    """run.json as a dict, with all defaults; camelCase, absent instead of null."""
    by_slot = {source.slot: source for source in sources}
    config: dict[str, Any] = _without_nulls(
        {
            "job": {"namespace": key.namespace, "name": key.name, "uid": uid},
            "model": {
                **by_slot[MODEL].place,
                "file": spec.model.file,
                "job": _job(spec, outputs or {}),
                "chatTemplatePath": CHAT_TEMPLATE_PATH if spec.model.chat_template else None,
            },
            "data": _data(spec, by_slot),
            "method": {"lora": _lora(spec)},
            "training": _training(spec, fit, learning_rate),
            "zeroStage": fit.zero_stage,
            "offload": _offload(fit),
            "workers": {
                "count": spec.workers.count,
                "ranksPerWorker": spec.workers.ranks_per_pod,
                "device": "GPU" if spec.workers.gpus_per_worker else "CPU",
            },
            "evaluation": _evaluation(key, spec),
            "gate": _gate(spec, accepted),
            "checkpoint": {
                "everySteps": spec.checkpoint.every_steps,
                "everySeconds": CHECKPOINT_SECONDS,
                "asynchronous": spec.checkpoint.asynchronous is Switch.ENABLED
                and (fit.checkpoint_copy or spec.checkpoint.every_steps is None),
                "keep": spec.checkpoint.keep,
                "onDiskFull": spec.checkpoint.on_disk_full.value,
                "afterSuccess": spec.checkpoint.after_success.value,
            },
            "recovery": _recovery(spec, passed_over),
            "output": {
                "formats": [form.value for form in spec.output.formats],
                "ggufType": spec.output.gguf.type.value if spec.output.gguf else None,
                "external": spec.output.uri is not None,
                "publishedPath": _published(spec),
                "destinations": destinations(spec.output),
            },
        }
    )
    return config


def _offload(fit: Fit) -> dict[str, str] | None:
    """None where nothing is: the lock's digest of such a job stays what it was before offload."""
    if not fit.offloads:
        return None
    return {
        "optimizer": device_of(fit.offload_optimizer),
        "parameters": device_of(fit.offload_parameters),
    }


def _job(spec: FineTuneJobSpec, outputs: Mapping[str, ResolvedOutput]) -> dict[str, Any] | None:
    """What is known of the job that the model comes from, until the model is prepared."""
    name = named_job({"model": {"uri": spec.model.uri}})
    output = outputs.get(name) if name else None
    return output.told(name) if name and output else None


def _published(spec: FineTuneJobSpec) -> str | None:
    """Where prepare looks for a result that may be reused."""
    wanted = spec.output.uri is not None and spec.output.reuse is Reuse.SAME_LOCK
    return f"{SOURCES}/{PUBLISHED}" if wanted else None


def _data(spec: FineTuneJobSpec, by_slot: dict[str, Source]) -> dict[str, Any]:
    data = spec.data
    return {
        "train": [data_source(s, by_slot[f"train-{i}"]) for i, s in enumerate(data.train)],
        "eval": [data_source(s, by_slot[f"eval-{i}"]) for i, s in enumerate(data.eval or ())],
        "general": [
            data_source(s, by_slot[f"general-{i}"]) for i, s in enumerate(data.general or ())
        ],
        "augment": data.augment and _container(data.augment),
        "evalFraction": _number(data.eval_fraction),
        "sequenceLength": data.sequence_length,
        "packing": data.packing.value,
        "lossOn": data.loss_on.value,
        "overlong": data.overlong.value,
        "cleaning": _cleaning(data.cleaning),
        "expect": {
            "minRows": data.expect.min_rows,
            "maxBrokenFraction": float(data.expect.max_broken_fraction),
            "maxDroppedFraction": _number(data.expect.max_dropped_fraction),
            "maxTruncatedFraction": _number(data.expect.max_truncated_fraction),
            "maxLeakedFraction": float(data.expect.max_leaked_fraction),
        },
        "report": data.report.wire() if data.report else None,
    }


def _cleaning(cleaning: Cleaning) -> dict[str, Any]:
    policies = cleaning.wire()
    policies["nearDuplicates"]["similarity"] = float(cleaning.near_duplicates.similarity)
    return policies


def _lora(spec: FineTuneJobSpec) -> dict[str, Any] | None:
    lora = spec.method.lora
    if lora is None:
        return None
    return {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": float(lora.dropout),
        "rslora": lora.rslora is Switch.ENABLED,
        "dora": lora.dora is Switch.ENABLED,
        "quantization": lora.quantization and lora.quantization.value,
        "targetModules": list(lora.target_modules) if lora.target_modules else "AllLinear",
    }


def _training(spec: FineTuneJobSpec, fit: Fit, learning_rate: float) -> dict[str, Any]:
    training, schedule, optimizer = (
        spec.training,
        spec.training.schedule,
        spec.training.optimizer,
    )
    return {
        "epochs": _number(training.epochs),
        "steps": training.steps,
        "microBatchSize": fit.micro,
        "accumulation": fit.accumulation,
        "learningRate": learning_rate,
        "schedule": {
            "type": schedule.type.value,
            "warmupFraction": float(schedule.warmup_fraction),
            "finalFraction": float(schedule.final_fraction),
        },
        "optimizer": {
            "type": optimizer.type.value,
            "weightDecay": float(optimizer.weight_decay),
            "beta1": float(optimizer.beta1),
            "beta2": float(optimizer.beta2),
            "epsilon": float(optimizer.epsilon),
        },
        "maxGradNorm": float(training.max_grad_norm),
        "dropout": float(training.dropout),
        "neftuneNoiseAlpha": _number(training.neftune_noise_alpha),
        "precision": training.precision.value if training.precision else "Auto",
        "activationCheckpointing": fit.activation_checkpointing,
        "seed": training.seed,
    }


def _evaluation(key: Key, spec: FineTuneJobSpec) -> dict[str, Any]:
    evaluation = spec.evaluation
    human = evaluation.human
    return {
        "everySteps": evaluation.every_steps,
        "baseline": evaluation.baseline is Baseline.MEASURE,
        "generation": evaluation.generation and _generation(evaluation.generation),
        "pairedPrompts": [each.wire() for each in evaluation.paired_prompts or ()],
        "human": human and {"configMap": human.config_map or ratings_name(key)},
        "overfitting": {
            "action": evaluation.overfitting.action.value,
            "patience": evaluation.overfitting.patience,
            "minDelta": float(evaluation.overfitting.min_delta),
            "maxGap": _number(evaluation.overfitting.max_gap),
        },
    }


def _container(wish: UserContainer) -> dict[str, Any]:
    """What decides what it makes."""
    content = wish.wire()
    content.pop("resources", None)
    return content


def _generation(generation: Generation) -> dict[str, Any]:
    """``scorers`` run without the trainer; they stand here because they decide the result."""
    wish = generation.wire()
    wish.pop("scorerDeadlineSeconds")
    return wish | {"scorers": [_container(scorer) for scorer in generation.scorers or ()]}


def ratings_name(key: Key) -> str:
    """ConfigMap of ratings, where the spec names none."""
    return f"{key.name}-ratings"


def _gate(spec: FineTuneJobSpec, accepted: HumanEvaluation | None) -> dict[str, Any] | None:
    if spec.gate is None:
        return None
    forgetting = spec.gate.forgetting
    said = {"bundle": accepted.bundle, "finding": accepted.finding} if accepted else {}
    return {
        "human": said if spec.gate.human else None,
        "scores": [
            {
                "metric": score.metric.value,
                "atLeast": _number(score.at_least),
                "atMost": _number(score.at_most),
                "minImprovement": _number(score.min_improvement),
            }
            for score in spec.gate.scores or ()
        ],
        "scorers": [
            {
                "name": bound.name,
                "metric": bound.metric,
                "atLeast": _number(bound.at_least),
                "minImprovement": _number(bound.min_improvement),
            }
            for bound in spec.gate.scorers or ()
        ],
        "forgetting": forgetting and {"maxLossIncrease": float(forgetting.max_loss_increase)},
    }


def _recovery(spec: FineTuneJobSpec, passed_over: tuple[PassedOver, ...]) -> dict[str, Any]:
    recovery = spec.recovery
    return {
        "hangAfterSeconds": recovery.hang_after_seconds,
        "onNonFinite": recovery.on_non_finite.value,
        "onLossSpike": recovery.on_loss_spike.value,
        "lossSpike": {
            "factor": float(recovery.loss_spike.factor),
            "windowSteps": recovery.loss_spike.window_steps,
        },
        "maxSkippedSteps": recovery.max_skipped_steps,
        "passedOver": [
            {"attempt": each.attempt, "firstStep": each.first_step, "lastStep": each.last_step}
            for each in passed_over
        ],
    }


def _number(decimal: str | None) -> float | None:
    return None if decimal is None else float(decimal)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
