"""Where it runs: ``spec.workers``, and the place and the resources of the other stages.

Only the pod fields listed here can be set. There is no free pod template: each such opening in
other operators has become a way to other people's secrets or to the host.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .affinity import Affinity
from .schema import (
    LabelKey,
    LabelValue,
    ObjectName,
    Quantity,
    Rule,
    SpecModel,
    list_map,
)

MAX_WORKERS = 512
ENV_NAME = r"^(NCCL|GLOO|TORCH)_[A-Z0-9_]+$"
ResourceName = Annotated[str, Field(min_length=1, max_length=253)]
ResourceList = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]

_NO_GPU_RESOURCE = (
    "(!has(self.requests) || !('nvidia.com/gpu' in self.requests))"
    " && (!has(self.limits) || !('nvidia.com/gpu' in self.limits))"
)


class Resources(SpecModel):
    """Resources of a container, in Kubernetes notation."""

    requests: ResourceList | None = None
    """What the scheduler sets aside, by resource name: `cpu: "4"`, `memory: 32Gi`."""
    limits: ResourceList | None = None
    """What the container may use at most, by resource name."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=_NO_GPU_RESOURCE,
            message="nvidia.com/gpu does not belong here: set workers.gpusPerWorker; prepare and "
            "export use no GPU",
            check=lambda resources: all(
                "nvidia.com/gpu" not in (amounts or {})
                for amounts in (resources.requests, resources.limits)
            ),
        ),
    )


class TolerationOperator(StrEnum):
    """How a toleration compares with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(SpecModel):
    """Lets the pods run on nodes with a matching taint."""

    key: LabelKey | None = None
    """Key of the taint. Absent with operator Exists: every taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Exists or Equal. Absent: Equal."""
    value: LabelValue | None = None
    """Value of the taint, for Equal."""
    effect: TaintEffect | None = None
    """NoSchedule, PreferNoSchedule or NoExecute. Absent: all of them."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """Seconds that a NoExecute taint is tolerated. Absent: for ever."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.operator) && self.operator == 'Exists'"
            " ? !has(self.value) : has(self.key)",
            message="operator Exists takes no value, Equal needs a key: remove value or add key",
            check=lambda toleration: (
                toleration.value is None
                if toleration.operator is TolerationOperator.EXISTS
                else toleration.key is not None
            ),
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds goes with effect NoExecute: set it, the others do not evict",
            field_path=".tolerationSeconds",
            check=lambda toleration: (
                toleration.toleration_seconds is None or toleration.effect is TaintEffect.NO_EXECUTE
            ),
        ),
    )


NodeLabels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
Tolerations = Annotated[tuple[Toleration, ...], Field(max_length=32)]


class LocalObjectRef(SpecModel):
    """An object in the job's namespace."""

    name: ObjectName
    """Name of the object."""


class EnvVar(SpecModel):
    """A plain environment variable of the training processes."""

    name: Annotated[str, Field(max_length=128, pattern=ENV_NAME)]
    """Name; it must start with NCCL_, GLOO_ or TORCH_."""
    value: Annotated[str, Field(max_length=1024)]
    """Value, as it is; no reference to Secrets is possible."""


class OnMemoryShortage(StrEnum):
    """What follows where a rank is predicted to need more memory than it has."""

    WARN = "Warn"
    FAIL = "Fail"


class Workers(SpecModel):
    """The gang of training pods."""

    count: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    """Training pods. May change while the job is suspended."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of each pod (`nvidia.com/gpu`); each GPU gets one rank. 0: ranks on CPU, as many as
    `ranksPerWorker`."""
    ranks_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Ranks of each pod when they run on CPU. Exactly one of this and a positive
    `gpusPerWorker`."""
    memory_per_gpu: Quantity | None = None
    """Memory of each GPU, such as 80Gi; only compared with the prediction in
    `status.resolved.memory`. Absent: the prediction is told and compared with nothing."""
    on_memory_shortage: OnMemoryShortage = OnMemoryShortage.WARN
    """Warn: condition PreflightPassed is False and training starts all the same, because a
    prediction may be wrong; what then runs out of memory follows `recovery.onOutOfMemory`. Fail:
    the job ends after prepare, before any training pod."""
    resources: Resources | None = None
    """CPU, memory and the like of each training pod. GPUs are set by `gpusPerWorker`."""
    node_selector: NodeLabels | None = None
    """Labels that a node must have."""
    tolerations: Tolerations = ()
    """Taints that the training pods tolerate."""
    affinity: Affinity | None = None
    """Which nodes, and how near to each other."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the training pods."""
    image_pull_secrets: Annotated[
        tuple[LocalObjectRef, ...], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = ()
    """Secrets for pulling images, for the pods of every stage."""
    scheduler_name: ObjectName | None = None
    """Scheduler of the training pods. Absent: the cluster's default."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods of every stage. Absent: `default`. Its token is never
    mounted."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm of each training pod; counts against its memory limit."""
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Seconds that a training pod has to save a checkpoint when it is asked to stop."""
    env: Annotated[
        tuple[EnvVar, ...], Field(max_length=64, json_schema_extra=list_map("name"))
    ] = ()
    """Environment of the training processes: NCCL_*, GLOO_* and TORCH_* only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.gpusPerWorker > 0 ? !has(self.ranksPerWorker) : has(self.ranksPerWorker)",
            message="set exactly one of gpusPerWorker (at least 1; each GPU gets a rank) and "
            "ranksPerWorker (ranks on CPU)",
            check=lambda workers: (workers.gpus_per_worker > 0) != bool(workers.ranks_per_worker),
        ),
        Rule(
            cel="!has(self.memoryPerGpu) || self.gpusPerWorker > 0",
            message="memoryPerGpu goes with gpusPerWorker: remove it, on CPU the limit counts",
            field_path=".memoryPerGpu",
            check=lambda workers: workers.memory_per_gpu is None or workers.gpus_per_worker > 0,
        ),
        Rule(
            cel="self.onMemoryShortage != 'Fail' || self.gpusPerWorker == 0"
            " || has(self.memoryPerGpu)",
            message="Fail compares the prediction with the GPU's memory: set memoryPerGpu",
            field_path=".onMemoryShortage",
            check=lambda workers: (
                workers.on_memory_shortage is not OnMemoryShortage.FAIL
                or workers.gpus_per_worker == 0
                or workers.memory_per_gpu is not None
            ),
        ),
    )

    @property
    def ranks_per_pod(self) -> int:
        """Rank processes in each pod, on GPU or on CPU."""
        return self.gpus_per_worker or self.ranks_per_worker or 1

    @property
    def world_size(self) -> int:
        """Ranks of the whole gang."""
        return self.count * self.ranks_per_pod


class Stage(SpecModel):
    """A stage that runs in one pod without GPUs."""

    resources: Resources | None = None
    """CPU, memory and the like of its pod."""
    node_selector: NodeLabels | None = None
    """Labels that its node must have."""
    tolerations: Tolerations = ()
    """Taints that its pod tolerates."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of its pod."""
