"""``FineTuneJob.spec``: the wish, and the rules that span its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_camel

from .batch_rules import batch_fits
from .budget import UsageLimit
from .destinations import OutputFormat
from .elastic import ELASTIC_RULES
from .evaluation import Baseline, Evaluation, OnOverfitting
from .gate import ON_TOKENS, Gate
from .quantization import QUANTIZATION_RULES
from .queue import Queue
from .recovery import Recovery
from .schema import Rule, SpecModel
from .sources import Data, Model
from .storage import Output, Reuse, Storage
from .training import Checkpoint, DeepSpeed, Method, OffloadDevice, Training
from .workers import Stage, Workers

SECONDS_PER_YEAR = 365 * 86_400

MUTABLE = frozenset(
    {
        "budget",
        "queue",
        "recovery",
        "suspend",
        "active_deadline_seconds",
        "ttl_seconds_after_finished",
        "start_deadline_seconds",
    }
)
"""Fields that may change after creation. ``workers.count`` also may, while suspended."""


class FineTuneJobSpec(SpecModel):
    """What to fine-tune, on what, how and where."""

    model: Model
    """The model to start from."""
    data: Data
    """The rows to train and to evaluate on."""
    method: Method
    """LoRA or full fine-tuning."""
    training: Training
    """Hyperparameters."""
    deepspeed: DeepSpeed = DeepSpeed()
    """Partitioning of the training state."""
    workers: Workers
    """The gang of training pods."""
    queue: Queue | None = None
    """The queue that admits the training pods. Absent: they start at once."""
    prepare: Stage = Stage()
    """The pod that fetches and tokenizes model and data before training."""
    export: Stage = Stage()
    """The pod that merges, checks and publishes the result; merging needs memory for the whole
    model. The pod of the scorers goes where this one may."""
    evaluation: Evaluation = Evaluation()
    """Scores on the held-out rows."""
    gate: Gate | None = None
    """What the model has to reach to be published. Absent: every model is."""
    checkpoint: Checkpoint = Checkpoint()
    """Saved training state."""
    recovery: Recovery = Recovery()
    """What happens after a failure."""
    budget: UsageLimit = UsageLimit()
    """What the job may use at most."""
    storage: Storage
    """The volume for the job's files."""
    output: Output = Output()
    """Where the result goes."""
    suspend: bool = False
    """True stops the job at its present stage, after a checkpoint, and gives its pods back;
    false lets it go on."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=SECONDS_PER_YEAR)] | None = None
    """Seconds that the job may take from its start, without the time suspended, before it fails.
    Absent: no limit."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=SECONDS_PER_YEAR)] | None = None
    """Seconds after the end until pods and other children are removed; the FineTuneJob itself
    stays, and with it the claim of `storage.size`. Absent: they stay with it."""
    start_deadline_seconds: Annotated[int, Field(ge=10, le=SECONDS_PER_YEAR)] = 1800
    """Seconds in which all training pods must be ready; else they are given back and tried again
    later, so that half-placed gangs do not block each other."""

    rules: ClassVar[tuple[Rule, ...]] = ()


def _unchanged(parent: str, name: str, *, required: bool) -> str:
    new, old = f"{parent}.{name}", f"{parent.replace('self', 'oldSelf', 1)}.{name}"
    if required:
        return f"{new} == {old}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _is_always_there(model: type[SpecModel], name: str) -> bool:
    """Required, or filled in by a default: then CEL needs no ``has()``."""
    field = model.model_fields[name]
    return field.is_required() or field.get_default(call_default_factory=True) not in (None, ())


def _immutable(name: str) -> Rule:
    wire = to_camel(name)
    return Rule(
        cel=_unchanged("self", wire, required=_is_always_there(FineTuneJobSpec, name)),
        message=f"{wire} cannot change after creation: create a FineTuneJob with a new name",
        field_path=f".{wire}",
    )


def _immutable_workers() -> Rule:
    rest = " && ".join(
        f"({_unchanged('self.workers', to_camel(name), required=_is_always_there(Workers, name))})"
        for name in Workers.model_fields
        if name != "count"
    )
    return Rule(
        cel=f"self.workers == oldSelf.workers || (oldSelf.suspend && {rest})",
        message="workers cannot change after creation: create a FineTuneJob with a new name; "
        "only workers.count may change, while the job is suspended",
        field_path=".workers",
    )


def _uses_hub(spec: FineTuneJobSpec) -> bool:
    data = spec.data
    sources = (*data.train, *(data.eval or ()), *(data.general or ()))
    return any(uri.startswith("hf://") for uri in (spec.model.uri, *(s.uri for s in sources)))


def _has_scorers(spec: FineTuneJobSpec, gate: Gate) -> bool:
    generation = spec.evaluation.generation
    known = {scorer.name for scorer in (generation.scorers or () if generation else ())}
    return all(bound.name in known for bound in gate.scorers or ())


def _measures(spec: FineTuneJobSpec, gate: Gate) -> bool:
    generation = spec.evaluation.generation
    known = {*ON_TOKENS, *(generation.metrics if generation else ())}
    return all(score.metric.value in known for score in gate.scores or ())


def _needs_gpus(name: str, wished: Callable[[DeepSpeed], OffloadDevice]) -> Rule:
    def check(spec: FineTuneJobSpec) -> bool:
        kept = wished(spec.deepspeed) is OffloadDevice.NONE
        return kept or spec.workers.gpus_per_worker > 0

    return Rule(
        cel=f"self.deepspeed.{name} == 'None' || self.workers.gpusPerWorker > 0",
        message=f"{name} moves memory from GPUs to their host and the job has none, so it would "
        "free nothing: remove it, or set workers.gpusPerWorker",
        field_path=f".deepspeed.{name}",
        check=check,
    )


FineTuneJobSpec.rules = (
    *(
        _immutable_workers() if name == "workers" else _immutable(name)
        for name in FineTuneJobSpec.model_fields
        if name not in MUTABLE
    ),
    batch_fits(
        "self.workers.count",
        lambda spec: spec.workers.count,
        message="must be a multiple of microBatchSize (1 if absent) × workers.count × ranks per "
        "worker: change one of them",
        field_path=".training.globalBatchSize",
    ),
    *ELASTIC_RULES,
    Rule(
        # a number below its bound is refused by the bound
        cel="!has(self.activeDeadlineSeconds) || self.activeDeadlineSeconds < 1"
        " || self.activeDeadlineSeconds >= self.workers.terminationGracePeriodSeconds",
        message="must not be less than workers.terminationGracePeriodSeconds (120 if absent): the "
        "pods that the deadline ends get so long to save a checkpoint",
        field_path=".activeDeadlineSeconds",
        check=lambda spec: (
            spec.active_deadline_seconds is None
            or spec.active_deadline_seconds >= spec.workers.termination_grace_period_seconds
        ),
    ),
    Rule(
        cel="!has(self.budget.gpuHours) || self.workers.gpusPerWorker > 0",
        message="gpuHours counts hours of GPUs and the job has none, so it would limit nothing: "
        "remove it, or set workers.gpusPerWorker; activeDeadlineSeconds limits time",
        field_path=".budget.gpuHours",
        check=lambda spec: spec.budget.gpu_hours is None or spec.workers.gpus_per_worker > 0,
    ),
    _needs_gpus("offloadOptimizer", lambda wish: wish.offload_optimizer),
    _needs_gpus("offloadParameters", lambda wish: wish.offload_parameters),
    *QUANTIZATION_RULES,
    Rule(
        cel="!has(self.storage.size) || has(self.storage.claimRef) || has(self.output.uri)",
        message="storage.size makes a claim that is deleted with the job: set output.uri to keep "
        "the result, or use storage.claimRef",
        field_path=".output",
        check=lambda spec: spec.storage.size is None or bool(spec.output.uri),
    ),
    Rule(
        cel="has(self.method.lora) || !('Adapter' in self.output.formats)",
        message="Adapter goes with method.lora: full fine-tuning has no adapter, use Merged",
        field_path=".output.formats",
        check=lambda spec: (
            spec.method.lora is not None or OutputFormat.ADAPTER not in spec.output.formats
        ),
    ),
    Rule(
        cel="!has(self.evaluation.pairedPrompts) || has(self.data.eval)"
        " || !has(self.data.evalFraction) || double(self.data.evalFraction) > 0.0",
        message="paired prompts are scored beside held-out rows: set data.eval, or an evalFraction "
        "above 0, or remove pairedPrompts",
        field_path=".evaluation.pairedPrompts",
        check=lambda spec: spec.evaluation.paired_prompts is None or spec.data.holds_out,
    ),
    Rule(
        cel="!has(self.evaluation.generation) || has(self.data.eval)"
        " || !has(self.data.evalFraction) || double(self.data.evalFraction) > 0.0",
        message="answers need held-out prompts: set data.eval, or an evalFraction above 0, or "
        "remove evaluation.generation",
        field_path=".evaluation.generation",
        check=lambda spec: spec.evaluation.generation is None or spec.data.holds_out,
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.scores) || self.gate.scores.all(score,"
        " score.metric in ['EvalLoss', 'Perplexity', 'TokenAccuracy']"
        " || (has(self.evaluation.generation)"
        " && self.evaluation.generation.metrics.exists(metric, metric == score.metric)))",
        message="the gate asks for a score of answers that is not measured: add its metric to "
        "evaluation.generation.metrics",
        field_path=".gate.scores",
        check=lambda spec: spec.gate is None or _measures(spec, spec.gate),
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.scorers) || (has(self.evaluation.generation)"
        " && has(self.evaluation.generation.scorers) && self.gate.scorers.all(bound,"
        " self.evaluation.generation.scorers.exists(scorer, scorer.name == bound.name)))",
        message="the gate asks for a number of a scorer that is not there: name one of "
        "evaluation.generation.scorers",
        field_path=".gate.scorers",
        check=lambda spec: spec.gate is None or _has_scorers(spec, spec.gate),
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.scorers)"
        " || self.evaluation.baseline == 'Measure'"
        " || !self.gate.scorers.exists(bound, has(bound.minImprovement))",
        message="minImprovement of a scorer compares with the untouched model: set baseline to "
        "Measure",
        field_path=".evaluation.baseline",
        check=lambda spec: (
            spec.gate is None
            or spec.evaluation.baseline is Baseline.MEASURE
            or all(bound.min_improvement is None for bound in spec.gate.scorers or ())
        ),
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.scores) || self.evaluation.baseline == 'Measure'"
        " || !self.gate.scores.exists(score, has(score.minImprovement))",
        message="minImprovement compares with the untouched model: set baseline to Measure",
        field_path=".evaluation.baseline",
        check=lambda spec: (
            spec.gate is None
            or spec.evaluation.baseline is Baseline.MEASURE
            or all(score.min_improvement is None for score in spec.gate.scores or ())
        ),
    ),
    Rule(
        cel="!has(self.gate) || has(self.data.eval)"
        " || !has(self.data.evalFraction) || double(self.data.evalFraction) > 0.0",
        message="the gate needs scores on held-out rows: set data.eval, or an evalFraction above 0",
        field_path=".gate",
        check=lambda spec: spec.gate is None or spec.data.holds_out,
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.forgetting) || has(self.data.general)",
        message="forgetting is measured on general rows and there are none: set data.general",
        field_path=".gate.forgetting",
        check=lambda spec: (
            spec.gate is None or spec.gate.forgetting is None or spec.data.general is not None
        ),
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.forgetting)"
        " || self.evaluation.baseline == 'Measure'",
        message="forgetting compares with the untouched model: set baseline to Measure",
        field_path=".evaluation.baseline",
        check=lambda spec: (
            spec.gate is None
            or spec.gate.forgetting is None
            or spec.evaluation.baseline is Baseline.MEASURE
        ),
    ),
    Rule(
        cel="!has(self.gate) || !has(self.gate.human) || has(self.evaluation.human)",
        message="the gate waits for ratings that nobody can give: set evaluation.human",
        field_path=".gate.human",
        check=lambda spec: (
            spec.gate is None or spec.gate.human is None or spec.evaluation.human is not None
        ),
    ),
    Rule(
        cel="!has(self.evaluation.human) || self.output.reuse != 'SameLock'",
        message="SameLock takes a result whose answers nobody is asked to rate: remove "
        "evaluation.human, or set reuse to Never",
        field_path=".output.reuse",
        check=lambda spec: (
            spec.evaluation.human is None or spec.output.reuse is not Reuse.SAME_LOCK
        ),
    ),
    Rule(
        cel="self.evaluation.overfitting.action != 'StopKeepBest' || has(self.data.eval)"
        " || !has(self.data.evalFraction) || double(self.data.evalFraction) > 0.0",
        message="StopKeepBest compares losses on held-out rows: set data.eval, or an evalFraction "
        "above 0, or another action",
        field_path=".evaluation.overfitting.action",
        check=lambda spec: (
            spec.evaluation.overfitting.action is not OnOverfitting.STOP_KEEP_BEST
            or spec.data.holds_out
        ),
    ),
    Rule(
        cel="has(self.checkpoint.everySteps) || (self.recovery.onNonFinite != 'RollBack'"
        " && self.recovery.onLossSpike != 'RollBack')",
        message="RollBack goes back to a checkpoint: set checkpoint.everySteps, or Skip or Stop",
        field_path=".recovery",
        check=lambda spec: (
            spec.checkpoint.every_steps is not None
            or "RollBack" not in (spec.recovery.on_non_finite, spec.recovery.on_loss_spike)
        ),
    ),
    Rule(
        cel="!has(self.model.secretRef) || self.model.uri.startsWith('hf://')"
        " || self.data.train.exists(source, source.uri.startsWith('hf://'))"
        " || (has(self.data.eval)"
        " && self.data.eval.exists(source, source.uri.startsWith('hf://')))"
        " || (has(self.data.general)"
        " && self.data.general.exists(source, source.uri.startsWith('hf://')))",
        message="secretRef is a token for hf:// sources and there is none: remove it; claims "
        "need none, and images use workers.imagePullSecrets",
        field_path=".model.secretRef",
        check=lambda spec: spec.model.secret_ref is None or _uses_hub(spec),
    ),
)
