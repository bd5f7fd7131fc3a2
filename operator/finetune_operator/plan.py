"""spec → TrainingPlan: names, sizes, places. Computed once for each pass, passed to everything."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from .api.types import (
    ActivationCheckpointing,
    DataReuse,
    FineTuneJobSpec,
    FineTuneJobStatus,
    HumanEvaluation,
    Lineage,
    Lock,
    OffloadDevice,
    Precision,
    Resolved,
    Reused,
    Scorer,
    ScorerStatus,
    StageName,
    Switch,
    decimal_string,
)
from .batch import solve_batch
from .engine.store import Key
from .errors import Fault, InvalidSpec
from .fit_choice import device_of, kept, switch_of
from .gang_size import bounds, fitting_sizes, misfits, present_workers, with_workers
from .memory_ladder import Fit, descend
from .preflight import predicted
from .run_config import CHECKPOINT_SECONDS, ratings_name, run_config
from .settings import Settings
from .sources import ClaimUse, ResolvedOutput, Source, locate_sources

FIRST_MASTER_PORT = 23_000
MASTER_PORTS = 8_000  # below the ephemeral ports of Linux, which begin at 32768
IMAGE_VOLUMES_SINCE = 35
NOT_KNOWN = "Auto: it is not known what a rank needs and has"
_LETTERS = {
    StageName.PREPARE: "p",
    StageName.TRAIN: "a",
    StageName.SCORE: "s",
    StageName.EXPORT: "x",
}


@dataclass(frozen=True)
class Platform:
    """What is the same for all jobs."""

    settings: Settings
    kubernetes_minor: int = IMAGE_VOLUMES_SINCE


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes and names of one job."""

    key: Key
    uid: str
    spec: FineTuneJobSpec
    """The wish, with the present number of workers."""
    wanted: int
    """Workers that the wish names."""
    sizes: tuple[int, ...]
    """Numbers of workers that may do, in order."""
    remarks: tuple[Fault, ...]
    """What of the spec cannot be followed, while the job goes on."""
    platform: Platform
    image: str
    """Trainer image; stays the same from the job's first pod to its last."""
    resolved: Resolved
    sources: tuple[Source, ...]
    default_fit: Fit
    """What it would be if nothing were known of memory."""
    fit: Fit
    learning_rate: float
    outputs: Mapping[str, ResolvedOutput] = field(default_factory=dict)
    """Results that the spec names; empty once their jobs are gone."""
    lock: Lock | None = None
    """Of what prepare made; None before."""
    reused: Reused | None = None
    """The result that is taken instead of training."""
    accepted: HumanEvaluation | None = None
    """What people said, once that let the model pass."""
    scored: tuple[ScorerStatus, ...] = ()
    """What the scorers said, once they have ended."""

    @cached_property
    def run_config(self) -> Mapping[str, Any]:
        """Content of run.json. Only a pass that creates something asks for it."""
        return run_config(
            self.key,
            self.uid,
            self.spec,
            self.sources,
            self.fit,
            self.learning_rate,
            self.resolved.passed_over or (),
            outputs=self.outputs,
            accepted=self.accepted,
        )

    @property
    def lineage(self) -> Lineage | None:
        """Where the model comes from, as long as the job that it comes from is there."""
        return next((output.lineage for output in self.outputs.values()), None)

    @property
    def service_name(self) -> str:
        return self.key.name

    @property
    def config_map_name(self) -> str:
        return f"{self.key.name}-run"

    @property
    def claim_name(self) -> str:
        """The claim of the job's files."""
        storage = self.spec.storage
        return storage.claim_ref.name if storage.claim_ref else f"{self.key.name}-work"

    @property
    def workspace(self) -> str:
        """Folder of the job's files on its claim."""
        return f"{self.key.namespace}/{self.uid}"

    @property
    def shared_data(self) -> str | None:
        """Folder on the job's claim of the data that jobs of its namespace share."""
        alone = self.spec.storage.claim_ref is None or self.spec.data.reuse is DataReuse.NEVER
        return None if alone else f"{self.key.namespace}/shared-data"

    @property
    def output_claim(self) -> str | None:
        return self.spec.output.uri and _claim_and_path(self.spec.output.uri)[0]

    @property
    def output_path(self) -> str:
        """Folder of the result: on the output claim, or on the job's own."""
        if self.spec.output.uri:
            return _claim_and_path(self.spec.output.uri)[1]
        return f"{self.workspace}/output"

    @property
    def output_uri(self) -> str:
        """The same with its claim: pvc://claim/path."""
        return self.spec.output.uri or f"pvc://{self.claim_name}/{self.output_path}"

    @property
    def ratings_name(self) -> str:
        """ConfigMap that people's ratings come back in."""
        human = self.spec.evaluation.human
        return (human and human.config_map) or ratings_name(self.key)

    @property
    def claim_uses(self) -> tuple[ClaimUse, ...]:
        """Claims that must exist before the first pod, in the order of the spec."""
        uses = [use for source in self.sources if (use := source.claim_use)]
        if self.spec.storage.claim_ref:
            shared = self.most_workers > 1
            uses.append(ClaimUse(self.claim_name, "spec.storage.claimRef.name", shared))
        if self.output_claim:
            uses.append(ClaimUse(self.output_claim, "spec.output.uri", False))
        return tuple(uses)

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """Containers that score the answers."""
        generation = self.spec.evaluation.generation
        return (generation and generation.scorers) or ()

    def job_name(self, stage: StageName, attempt: int) -> str:
        """Name of the Kubernetes Job of one attempt of a stage."""
        return stage_job_name(self.key, stage, attempt)

    @property
    def most_workers(self) -> int:
        """So many may write to the volume at once."""
        return max(self.wanted, self.spec.workers.count, *self.sizes)

    def pods(self, stage: StageName) -> int:
        return self.spec.workers.count if stage is StageName.TRAIN else 1

    def master_port(self, attempt: int) -> int:
        """Port of rank 0's store: another one for each attempt, so that a stale gang never
        meets a new one."""
        return FIRST_MASTER_PORT + (zlib.crc32(self.uid.encode()) + attempt) % MASTER_PORTS


def in_use(reused: Reused | None) -> Reused | None:
    """The result that stands for training; None where there is none, or it was refused."""
    return None if reused is None or reused.refused else reused


def stage_job_name(key: Key, stage: StageName, attempt: int) -> str:
    """``<name>-p0``, ``<name>-a0``, ``<name>-x0``: known before the spec is judged."""
    return f"{key.name}-{_LETTERS[stage]}{attempt}"


def _claim_and_path(uri: str) -> tuple[str, str]:
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path


def plan_training(
    key: Key,
    uid: str,
    spec: Mapping[str, Any],
    status: FineTuneJobStatus,
    platform: Platform,
    outputs: Mapping[str, ResolvedOutput],
) -> TrainingPlan:
    """Compute the plan. ``outputs`` are the results of the jobs that ``job://`` sources name, as
    far as they are known. Raises ``InvalidSpec`` with all faults at once.
    """
    asked = parse_spec(spec)
    settled = status.resolved.global_batch_size if status.prepared and status.resolved else None
    batch = solve_batch(asked, settled, also=bounds(asked))
    remarks = misfits(asked, batch.total)
    wish = with_workers(asked, present_workers(asked, status.resolved, batch.total))
    batch = batch.shared_by(wish.workers.world_size)
    sources, faults = locate_sources(wish, outputs)
    if not status.prepared:  # later a wrong bound is no reason to stop
        faults, remarks = faults + remarks, ()
    if platform.kubernetes_minor < IMAGE_VOLUMES_SINCE:
        faults += tuple(
            Fault(source.field, "image:// needs Kubernetes 1.35 or newer: use pvc://")
            for source in sources
            if source.image
        )
    if faults:
        raise InvalidSpec(faults)
    image = (status.resolved and status.resolved.image) or platform.settings.trainer_image
    zero_stage, zero_reason = _zero_stage(wish)
    adaptations = status.resolved.adaptations if status.resolved else None
    checkpointing = wish.training.activation_checkpointing
    default = Fit(
        micro=batch.micro,
        accumulation=batch.accumulation,
        activation_checkpointing=checkpointing is ActivationCheckpointing.ENABLED,
        zero_stage=zero_stage,
        world_size=wish.workers.world_size,
        checkpoint_copy=copies_state(wish),
        offload_optimizer=wish.deepspeed.offload_optimizer is OffloadDevice.CPU,
        offload_parameters=wish.deepspeed.offload_parameters is OffloadDevice.CPU,
        on_gpu=wish.workers.gpus_per_worker > 0,
        quantized=wish.method.quantized,
    )
    planned = status.resolved.planned if status.resolved else None
    fit = descend(kept(default, planned), [each.change or "" for each in adaptations or ()])
    rate, rate_reason = _learning_rate(wish)
    reasons = {**batch.reasons, "zeroStage": zero_reason, "learningRate": rate_reason}
    if checkpointing is ActivationCheckpointing.AUTO:
        reasons["activationCheckpointing"] = NOT_KNOWN
    if planned and planned.reasons:
        alone = default.world_size == 1  # then the stage is not the one that was chosen
        told = planned.reasons.items()
        reasons |= {name: why for name, why in told if not (alone and name == "zeroStage")}
    by_the_clock = wish.checkpoint.every_steps is None
    if by_the_clock:
        reasons["checkpointSeconds"] = (
            "checkpoint.everySteps is absent: a lost node costs about half an hour at most, and "
            "shorter training saves nothing"
        )
    precision = wish.training.precision
    resizes = status.resolved.resizes if status.resolved else None
    if resizes and wish.workers.count != asked.workers.count:
        reasons["workers"] = resizes[-1].reason
    if precision is None:
        on_gpu = wish.workers.gpus_per_worker > 0
        reasons["precision"] = "BF16 where the GPU has it" if on_gpu else "FP32 on CPU"
    resolved = Resolved(
        workers=wish.workers.count,
        world_size=wish.workers.world_size,
        micro_batch_size=fit.micro,
        accumulation=fit.accumulation,
        global_batch_size=batch.total,
        zero_stage=fit.zero_stage,
        offload_optimizer=device_of(fit.offload_optimizer) if fit.on_gpu else None,
        offload_parameters=device_of(fit.offload_parameters) if fit.on_gpu else None,
        activation_checkpointing=switch_of(fit),
        precision=precision.value if precision else "Auto",
        learning_rate=decimal_string(rate),
        checkpoint_seconds=CHECKPOINT_SECONDS if by_the_clock else None,
        steps=status.resolved.steps if status.resolved else wish.training.steps,
        memory=predicted(wish, fit, status.model, status.data),
        planned=planned,
        image=image,
        reasons={name: reason for name, reason in reasons.items() if reason} or None,
        adaptations=adaptations,
        passed_over=status.resolved.passed_over if status.resolved else None,
        resizes=resizes,
    )
    people = status.human_evaluation
    return TrainingPlan(
        key=key,
        uid=uid,
        spec=wish,
        wanted=asked.workers.count,
        sizes=fitting_sizes(asked, batch.total),
        remarks=remarks,
        platform=platform,
        image=image,
        resolved=resolved,
        sources=sources,
        default_fit=default,
        fit=fit,
        learning_rate=rate,
        outputs=outputs,
        lock=status.lock,
        reused=in_use(status.reused),
        accepted=people if people and people.accepted_time else None,
        scored=status.scorers or (),
    )


def parse_spec(spec: Mapping[str, Any]) -> FineTuneJobSpec:
    """Check a spec against the types. Raises ``InvalidSpec``."""
    try:
        return FineTuneJobSpec.model_validate(spec)
    except ValidationError as error:
        raise InvalidSpec(
            tuple(
                Fault(_field_path(fault["loc"]), fault["msg"].removeprefix("Value error, "))
                for fault in error.errors(include_url=False, include_input=False)
            )
        ) from error


def _field_path(location: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "spec" + "".join(parts)


def copies_state(spec: FineTuneJobSpec) -> bool:
    """Whether the ranks are to keep a copy of the state for saving beside the training."""
    checkpoint = spec.checkpoint
    return checkpoint.every_steps is not None and checkpoint.asynchronous is Switch.ENABLED


def _zero_stage(spec: FineTuneJobSpec) -> tuple[int, str | None]:
    stage = spec.deepspeed.zero_stage
    if stage == 0 and _may_train_in_16_bits(spec):
        return 0, "in 16 bits it runs as stage 1, which adds up gradients in FP32"
    if stage is not None:
        return stage, None
    if spec.deepspeed.offload_parameters is OffloadDevice.CPU:
        return 3, "it partitions the parameters, and offloads such parts alone"
    if spec.workers.world_size == 1 and spec.deepspeed.offload_optimizer is OffloadDevice.CPU:
        return 2, "with an offloaded optimizer it leaves no whole gradients on the GPU"
    if spec.workers.world_size == 1:
        return 0, "a single rank has nothing to partition"
    return 2, "optimizer state and gradients are partitioned at no cost in communication"


def _may_train_in_16_bits(spec: FineTuneJobSpec) -> bool:
    precision = spec.training.precision
    if precision is None:
        return spec.workers.gpus_per_worker > 0
    return precision is not Precision.FP32


def _learning_rate(spec: FineTuneJobSpec) -> tuple[float, str | None]:
    if spec.training.learning_rate is not None:
        return float(spec.training.learning_rate), None
    if spec.method.lora:
        return 2e-4, "usual for LoRA"
    return 2e-5, "usual for full fine-tuning"
