"""The FineTuneJob object, whole. Its parts stand in the modules imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from .affinity import Affinity, NodeAffinity, PodAffinity, PodAffinityTerm
from .artifact import Artifact, DestinationStatus, SmokeTest
from .budget import UsageLimit
from .cleaning import Cleaning, DropOrFail, Expect, NearDuplicates, Normalize, Policy
from .columns import DataFields, DataFormat
from .conditions import Condition, ConditionType, ConditionValue, Reason
from .data_report import ReportOptions, TermList
from .destinations import (
    Destination,
    GgufType,
    HubDestination,
    HubTokenRef,
    OciDestination,
    OutputFormat,
    RegistrySecretRef,
    S3Destination,
    Visibility,
)
from .elastic import Elastic
from .evaluation import AnswerMetric, Baseline, Evaluation, Generation, OnOverfitting, Overfitting
from .gate import Forgetting, Gate, GateMetric, GateScore
from .goodput import Cause, Goodput, TimeSpent
from .human import Human, HumanEvaluation, HumanGate
from .lineage import Ancestor, Lineage, Lock, Reused
from .object_store import S3Access, S3SecretRef
from .paired import PairedNumbers, PairedPrompts, PairedScores
from .prepared import DataStatus, ModelShape, ModelStatus, SourceStatus
from .progress import BestCheckpoint, Checkpoints, LatestCheckpoint, Progress
from .recovery import Backoff, LossSpike, OnLossSpike, OnNonFinite, OnOutOfMemory, Recovery
from .resolved import Adaptation, MemoryStatus, PassedOver, PlannedFit, Resize, Resolved
from .restarts import Failure, LostNode, PastFailure, Restarts, ResumedFrom
from .schema import ApiModel, Matches, StatusModel, decimal_string
from .scores import DatasetBaseline, DatasetScores, Metrics, Scores
from .scoring import Scorer, ScorerBound, ScorerStatus
from .sources import (
    ChatTemplate,
    ConfigMapKeyRef,
    Data,
    DataReuse,
    DataSource,
    LossOn,
    Model,
    ModelCheckpoint,
    Overlong,
    Packing,
    SecretRef,
    TrainSource,
)
from .spec import FineTuneJobSpec
from .status import MAX_EVENTS, FineTuneJobStatus, Logs, Phase
from .status_types import StageName
from .storage import ClaimRef, Gguf, Output, Reuse, Storage
from .training import (
    ActivationCheckpointing,
    AfterSuccess,
    Checkpoint,
    DeepSpeed,
    Full,
    Lora,
    Method,
    OffloadDevice,
    OnDiskFull,
    Optimizer,
    OptimizerType,
    Precision,
    Schedule,
    ScheduleType,
    Switch,
    Training,
)
from .user_container import Augment, UserContainer
from .workers import (
    EnvVar,
    LocalObjectRef,
    OnMemoryShortage,
    Resources,
    Stage,
    Toleration,
    Workers,
)

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SINGULAR = "finetunejob"
SHORT_NAME = "ftj"
CATEGORY = "finetune"

MAX_LABEL = 63
MAX_NAME = MAX_LABEL - len("-a99999-511")
"""Longest name: host names of training pods, ``<name>-a<attempt>-<index>``, are DNS labels."""
JobName = Annotated[
    str,
    Matches(
        rf"^.{{1,{MAX_NAME}}}$",
        f"must have at most {MAX_NAME} characters: the pods' host names "
        f"<name>-a<attempt>-<index> may have {MAX_LABEL}",
    ),
    Matches(
        r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "must start with a letter and have only lower-case letters, digits and '-': a Service of "
        "this name gives the pods their addresses",
    ),
]


class ObjectMeta(StatusModel):
    """The part of metadata that the CRD narrows."""

    name: JobName


class FineTuneJob(ApiModel):
    """Fine-tunes a language model on a gang of DeepSpeed pods and publishes the result."""

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    """The wish. Immutable but for suspend, recovery, queue, budget, the deadlines,
    ttlSecondsAfterFinished, and workers.count while suspended."""
    status: FineTuneJobStatus = FineTuneJobStatus()
    """What is known. Written by the operator alone."""


__all__ = [
    "API_VERSION",
    "CATEGORY",
    "GROUP",
    "KIND",
    "MAX_EVENTS",
    "MAX_NAME",
    "PLURAL",
    "SHORT_NAME",
    "SINGULAR",
    "VERSION",
    "ActivationCheckpointing",
    "Adaptation",
    "Affinity",
    "AfterSuccess",
    "Ancestor",
    "AnswerMetric",
    "Artifact",
    "Augment",
    "Backoff",
    "Baseline",
    "BestCheckpoint",
    "Cause",
    "ChatTemplate",
    "Checkpoint",
    "Checkpoints",
    "ClaimRef",
    "Cleaning",
    "Condition",
    "ConditionType",
    "ConditionValue",
    "ConfigMapKeyRef",
    "Data",
    "DataFields",
    "DataFormat",
    "DataReuse",
    "DataSource",
    "DataStatus",
    "DatasetBaseline",
    "DatasetScores",
    "DeepSpeed",
    "Destination",
    "DestinationStatus",
    "DropOrFail",
    "Elastic",
    "EnvVar",
    "Evaluation",
    "Expect",
    "Failure",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FineTuneJobStatus",
    "Forgetting",
    "Full",
    "Gate",
    "GateMetric",
    "GateScore",
    "Generation",
    "Gguf",
    "GgufType",
    "Goodput",
    "HubDestination",
    "HubTokenRef",
    "Human",
    "HumanEvaluation",
    "HumanGate",
    "LatestCheckpoint",
    "Lineage",
    "LocalObjectRef",
    "Lock",
    "Logs",
    "Lora",
    "LossOn",
    "LossSpike",
    "LostNode",
    "MemoryStatus",
    "Method",
    "Metrics",
    "Model",
    "ModelCheckpoint",
    "ModelShape",
    "ModelStatus",
    "NearDuplicates",
    "NodeAffinity",
    "Normalize",
    "ObjectMeta",
    "OciDestination",
    "OffloadDevice",
    "OnDiskFull",
    "OnLossSpike",
    "OnMemoryShortage",
    "OnNonFinite",
    "OnOutOfMemory",
    "OnOverfitting",
    "Optimizer",
    "OptimizerType",
    "Output",
    "OutputFormat",
    "Overfitting",
    "Overlong",
    "Packing",
    "PairedNumbers",
    "PairedPrompts",
    "PairedScores",
    "PassedOver",
    "PastFailure",
    "Phase",
    "PlannedFit",
    "PodAffinity",
    "PodAffinityTerm",
    "Policy",
    "Precision",
    "Progress",
    "Reason",
    "Recovery",
    "RegistrySecretRef",
    "ReportOptions",
    "Resize",
    "Resolved",
    "Resources",
    "Restarts",
    "ResumedFrom",
    "Reuse",
    "Reused",
    "S3Access",
    "S3Destination",
    "S3SecretRef",
    "Schedule",
    "ScheduleType",
    "Scorer",
    "ScorerBound",
    "ScorerStatus",
    "Scores",
    "SecretRef",
    "SmokeTest",
    "SourceStatus",
    "Stage",
    "StageName",
    "Storage",
    "Switch",
    "TermList",
    "TimeSpent",
    "Toleration",
    "TrainSource",
    "Training",
    "UsageLimit",
    "UserContainer",
    "Visibility",
    "Workers",
    "decimal_string",
]
