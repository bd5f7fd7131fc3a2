"""``FineTuneJob.status``: what is known, for people and for machines.

The counters of the stages are written ahead: number n stands here before the Job that bears it is
created, and a Job is created only by a pass that has read n back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, computed_field

from .conditions import Condition
from .goodput import Goodput
from .human import HumanEvaluation
from .lineage import Lineage, Lock, Reused
from .schema import LIST_SET, Decimal, StatusModel, Timestamp, list_map
from .scores import Metrics
from .scoring import MAX_SCORERS, ScorerStatus

Counter = Annotated[int, Field(ge=0)]
Message = Annotated[str, Field(max_length=1024)]


class Phase(StrEnum):
    """Where the job stands, for display; machines read the conditions."""

    PENDING = "Pending"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    STARTING = "Starting"
    TRAINING = "Training"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StageName(StrEnum):
    """The stages, in their order."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    EXPORT = "export"


def duration(seconds: int) -> str:
    """Seconds as kubectl shows ages, in the two largest units: 45s, 13m32s, 2h5m, 3d4h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


class Adaptation(StatusModel):
    """A step that made training smaller after it had run out of memory."""

    attempt: Counter | None = None
    """Attempt that ran out of memory."""
    failure_class: Annotated[str | None, Field(alias="class")] = None
    """CudaOom: of a GPU; HostOom: of the container."""
    change: Annotated[str, Field(max_length=256)] | None = None
    """What is different since then; the global batch stays as it was."""


class PassedOver(StatusModel):
    """Steps whose rows are left out since training went back behind them."""

    attempt: Counter | None = None
    """Attempt that the last of these steps ended."""
    failure_class: Annotated[str | None, Field(alias="class")] = None
    """NonFinite or LossSpike."""
    first_step: Counter | None = None
    """The first of them; steps are numbered from 1."""
    last_step: Counter | None = None
    """The bad one."""


class MemoryStatus(StatusModel):
    """What a rank will need at its worst moment, predicted: of its GPU, or of its pod's share."""

    predicted_bytes: Counter | None = None
    """All parts together."""
    available_bytes: Counter | None = None
    """`spec.workers.memoryPerGpu`; on CPU the pod's memory limit divided by its ranks. Absent: not
    known."""
    parts: Annotated[dict[str, Counter], Field(max_length=16)] | None = None
    """Bytes of parameters, gradients, optimizer, activations, logits, buffers, checkpointCopy and
    runtime at that moment."""
    fits_with: Annotated[str, Field(max_length=256)] | None = None
    """The nearest configuration that fits, where this one does not."""


class PlannedFit(StatusModel):
    """What was left open and chosen from the predicted memory, when prepare was over. Later
    attempts keep it; adaptations go on from it."""

    micro_batch_size: Counter | None = None
    """Sequences per rank and forward pass."""
    zero_stage: Counter | None = None
    """ZeRO stage."""
    activation_checkpointing: Literal["Enabled", "Disabled"] | None = None
    """Whether activations are computed again in the backward pass."""
    reasons: Annotated[dict[str, Message], Field(max_length=8)] | None = None
    """Why it is not what it would be with more memory, by field name."""


class Resize(StatusModel):
    """A change of the number of workers."""

    attempt: Counter | None = None
    """Attempt that ended; later ones have the new size."""
    workers_before: Counter | None = None
    """Training pods of that attempt."""
    workers: Counter | None = None
    """Training pods since then."""
    wanted: Counter | None = None
    """`spec.workers.count` at that time. Another one makes this void."""
    step: Counter | None = None
    """Last optimizer step known by then."""
    reason: Message | None = None
    """Why."""
    at: Timestamp | None = None
    """When."""


class Resolved(StatusModel):
    """What absent fields became."""

    workers: Counter | None = None
    """Training pods of the gang; after a resize not as many as `spec.workers.count`."""
    world_size: Counter | None = None
    """Ranks of the gang."""
    micro_batch_size: Counter | None = None
    """Sequences per rank and forward pass."""
    accumulation: Counter | None = None
    """Forward passes per optimizer step."""
    global_batch_size: Counter | None = None
    """Sequences per optimizer step: microBatchSize × accumulation × worldSize."""
    zero_stage: Counter | None = None
    """ZeRO stage."""
    activation_checkpointing: Literal["Enabled", "Disabled"] | None = None
    """Whether activations are computed again in the backward pass."""
    precision: str | None = None
    """Number format of forward and backward; Auto: the trainer asks its GPU."""
    learning_rate: Decimal | None = None
    """Peak learning rate."""
    steps: Counter | None = None
    """Optimizer steps of the whole training; known after prepare."""
    memory: MemoryStatus | None = None
    """What a rank is predicted to need; known after prepare."""
    planned: PlannedFit | None = None
    """What was chosen so that a rank fits into its memory. Absent: that memory is not known, or
    nothing was left open."""
    image: str | None = None
    """Trainer image of this job; kept from its first pod to its last."""
    reasons: Annotated[dict[str, Message], Field(max_length=32)] | None = None
    """Why, by field name."""
    adaptations: Annotated[tuple[Adaptation, ...], Field(max_length=32)] | None = None
    """What was made smaller after training ran out of memory, in order."""
    passed_over: Annotated[tuple[PassedOver, ...], Field(max_length=32)] | None = None
    """Steps that were passed over after roll-backs, in order; they count as done."""
    resizes: Annotated[tuple[Resize, ...], Field(max_length=10)] | None = None
    """Changes of the number of workers: the newest ten, the newest last."""


class ModelShape(StatusModel):
    """Sizes that the memory plan is made from."""

    trainable: Counter | None = None
    """Parameters that the method trains."""
    largest: Counter | None = None
    """Elements of the largest trained tensor."""
    layers: Counter | None = None
    """Decoder layers."""
    hidden: Counter | None = None
    """Hidden size."""
    attention: Counter | None = None
    """Attention heads × head size."""
    intermediate: Counter | None = None
    """Width of the MLP."""
    vocabulary: Counter | None = None
    """Size of the vocabulary."""
    gated: bool | None = None
    """The MLP multiplies two projections."""
    rms_norm: bool | None = None
    """Norms are RMSNorm; else LayerNorm."""
    stepwise_gelu: bool | None = None
    """GELU is computed in single steps."""
    chunked_loss: bool | None = None
    """The trainer makes the loss of this architecture without all logits at once."""
    by_sample: bool | None = None
    """On CPUs the trainer computes its attention sample by sample, without a mask."""
    adapters: Counter | None = None
    """Linear layers with an adapter."""
    adapter_inputs: Counter | None = None
    """Input features of all of them together."""
    adapter_outputs: Counter | None = None
    """Output features of all of them together."""


class ModelStatus(StatusModel):
    """The model that was prepared."""

    architecture: str | None = None
    """Architecture in transformers' words."""
    parameters: Counter | None = None
    """Number of parameters."""
    context_length: Counter | None = None
    """Tokens that the model can attend to."""
    digest: str | None = None
    """Digest of the weights: sha256:…"""
    commit: str | None = None
    """Commit that `spec.model.revision` meant, for hf:// models."""
    shape: ModelShape | None = None
    """Sizes that the memory plan is made from."""


class SourceStatus(StatusModel):
    """One data source as it was read."""

    field: Annotated[str, Field(max_length=128)] | None = None
    """The source in this object: spec.data.train[0]."""
    format: Annotated[str, Field(max_length=128)] | None = None
    """Chat, Instruction or Completion."""
    decided: Annotated[str, Field(max_length=256)] | None = None
    """What the format was told by."""
    rows: Counter | None = None
    """Rows read."""
    kept: Counter | None = None
    """Rows trained on; of an eval or general source: rows evaluated on."""
    drawn: Counter | None = None
    """Rows that an epoch draws from it, repeats counted; where `weight` is set."""
    not_drawn: Counter | None = None
    """Rows that its `weight` leaves out of every epoch."""
    epochs: Decimal | None = None
    """How often an epoch draws each of its rows, on average."""
    dropped: Annotated[dict[str, Counter], Field(max_length=64)] | None = None
    """Rows left out, by rule. What is neither kept, not drawn nor dropped is held out."""


class AugmentStatus(StatusModel):
    """What `spec.data.augment` made of the rows."""

    rows_in: Counter | None = None
    """Training rows that it was given."""
    rows_out: Counter | None = None
    """Rows that came back, and that are cleaned."""


class DataStatus(StatusModel):
    """The data that was prepared."""

    rows: Counter | None = None
    """Rows read, training sources."""
    kept: Counter | None = None
    """Rows trained on."""
    augment: AugmentStatus | None = None
    """Rows before and after `spec.data.augment`. Absent: there is none."""
    changed: Counter | None = None
    """Rows whose text was normalized."""
    dropped: Annotated[dict[str, Counter], Field(max_length=64)] | None = None
    """Rows left out, by rule."""
    reported: Annotated[dict[str, Counter], Field(max_length=64)] | None = None
    """Rows that are kept and fall under a rule, by rule."""
    truncated: Counter | None = None
    """Rows that lose their end at `spec.data.sequenceLength`."""
    tokens: Counter | None = None
    """Tokens of the kept rows."""
    supervised_tokens: Counter | None = None
    """Tokens that are learned."""
    packed_rows: Counter | None = None
    """Sequences after packing."""
    eval_rows: Counter | None = None
    """Held-out rows."""
    eval_tokens: Counter | None = None
    """Tokens of the held-out rows."""
    general_rows: Counter | None = None
    """Rows of `spec.data.general`."""
    general_tokens: Counter | None = None
    """Tokens of them."""
    longest_row: Counter | None = None
    """Tokens of the longest sequence after packing."""
    most_supervised: Counter | None = None
    """Most tokens that are learned in one sequence after packing."""
    digest: str | None = None
    """Digest of the prepared data: sha256:…"""
    warnings: (
        Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=8)] | None
    ) = None
    """What somebody should look at before a GPU is held, the gravest first: leaks, imbalance,
    repeats, cut rows. The report has all of them."""
    report_path: str | None = None
    """Report on the data on the claim of `spec.storage`: one HTML page, with its numbers as JSON
    beside it. It is published with the model, too."""
    rejects_path: str | None = None
    """File on the claim of `spec.storage` that lists the dropped and reported rows, one JSON
    object each."""
    sources: Annotated[tuple[SourceStatus, ...], Field(max_length=8)] | None = None
    """The first sources: train, eval, general."""


class Progress(StatusModel):
    """How far the present stage is."""

    stage: StageName | None = None
    """prepare, train or export."""
    phase: str | None = None
    """What the ranks do: init, load, eval, train, checkpoint, save or done."""
    step: Counter | None = None
    """Optimizer steps done."""
    steps: Counter | None = None
    """Optimizer steps of the whole training."""
    epoch: Decimal | None = None
    """Passes over the training rows so far."""
    eta_seconds: Counter | None = None
    """Seconds of training that remain, by the speed of late."""
    tokens_per_second: Decimal | None = None
    """Tokens without padding, all ranks together."""
    skipped: Annotated[dict[str, Counter], Field(max_length=16)] | None = None
    """Steps that changed no weight, by reason: nonfinite, lossSpike, passedOver (after a
    roll-back), lossScale (FP16 searches it), noTokens (nothing to learn in them)."""
    last_bad_step: Counter | None = None
    """The last step that changed no weight because of its loss or gradients, numbered from 1."""
    loss_spikes: Counter | None = None
    """Loss spikes so far, whatever followed from them."""
    updated_at: Timestamp | None = None
    """When rank 0 said so."""

    @computed_field
    def percent(self) -> Annotated[int, Field(ge=0, le=100)] | None:
        """step / steps in percent, rounded down."""
        if self.step is None or not self.steps:
            return None
        return min(100, 100 * self.step // self.steps)

    @computed_field
    def summary(self) -> str | None:
        """percent, step and steps in one word, for display: 44% (140/312)."""
        if self.percent is None:
            return None
        return f"{self.percent}% ({self.step}/{self.steps})"

    @computed_field
    def eta(self) -> str | None:
        """etaSeconds for display: 13m32s."""
        return None if self.eta_seconds is None else duration(self.eta_seconds)


class LatestCheckpoint(StatusModel):
    """The newest checkpoint."""

    step: Counter | None = None
    """Optimizer step after which it was saved."""
    verified: bool | None = None
    """True once it is durable and listed with sizes and hashes, which are compared on loading."""
    bytes: Counter | None = None
    """Size on the volume."""


class BestCheckpoint(StatusModel):
    """The checkpoint with the lowest loss on the held-out rows."""

    step: Counter | None = None
    """Optimizer step after which it was saved."""
    eval_loss: Decimal | None = None
    """Its loss on the held-out rows."""


class Checkpoints(StatusModel):
    """Saved training state."""

    latest: LatestCheckpoint | None = None
    """The newest."""
    best: BestCheckpoint | None = None
    """The one with the lowest evalLoss."""


class Failure(StatusModel):
    """The failure that counts: the first one, not what followed from it."""

    failure_class: Annotated[str | None, Field(alias="class")] = None
    """Class, as in reasons, events and metrics: CudaOom, BadData, …"""
    signature: Annotated[str | None, Field(max_length=128)] = None
    """Known failure that the output shows: NcclWatchdogTimeout, HubGated, … Absent: none was
    recognised."""
    stage: StageName | None = None
    """Stage that failed."""
    attempt: Counter | None = None
    """Its number."""
    rank: Counter | None = None
    """Rank that failed first."""
    pod: str | None = None
    """Pod of that rank."""
    node: str | None = None
    """Node of that pod."""
    exit_code: int | None = None
    """Exit code of its container."""
    step: Counter | None = None
    """Last optimizer step done."""
    message: Message | None = None
    """What is wrong and where: a field path, or file and line."""
    cause: Message | None = None
    """What the signature means, in one sentence."""
    hint: Message | None = None
    """What to do."""
    lines: (
        Annotated[
            tuple[Annotated[str, Field(max_length=1024)], ...],
            Field(max_length=20),
        ]
        | None
    ) = None
    """Last lines of its log that say something. (×8 ranks): so many ranks of the pod said it."""
    at: Timestamp | None = None
    """When."""


class PastFailure(StatusModel):
    """A failure after which the job was started again."""

    failure_class: Annotated[str | None, Field(alias="class")] = None
    """Class, as in `failure`."""
    stage: StageName | None = None
    """Stage that failed."""
    attempt: Counter | None = None
    """Number of the attempt that ended."""
    step: Counter | None = None
    """Last optimizer step known of it."""
    node: str | None = None
    """Node of the pod that failed first."""
    at: Timestamp | None = None
    """When."""
    budget: Literal["Program", "Infrastructure"] | None = None
    """Which budget paid for the restart; absent: none, it went on with less memory in use or
    rolled back."""
    steps_redone: Counter | None = None
    """Steps that were lost with the attempt: those after the checkpoint from which a later one
    went on. Absent until it did."""


class Restarts(StatusModel):
    """Restarts after failures, all stages together. Suspending costs none."""

    program: Counter | None = None
    """Paid by `spec.recovery.maxRestarts`."""
    infrastructure: Counter | None = None
    """Paid by `spec.recovery.maxInfrastructureRestarts`."""
    memory: Counter | None = None
    """With less memory in use (`resolved.adaptations`); paid by nobody, because they end by
    themselves."""
    roll_backs: Counter | None = None
    """Behind bad numbers (`resolved.passedOver`); limited by `spec.recovery.maxRollBacks`."""
    resizes: Counter | None = None
    """Changes of the number of workers (`resolved.resizes`); limited by
    `spec.recovery.elastic.maxResizes`, and not part of `total`."""
    steps_redone: Counter | None = None
    """Optimizer steps that were lost and trained again."""

    @computed_field
    def total(self) -> Counter:
        """program, infrastructure, memory and rollBacks together."""
        counts = (self.program, self.infrastructure, self.memory, self.roll_backs)
        return sum(count or 0 for count in counts)


class ResumedFrom(StatusModel):
    """Where the present attempt of the training began."""

    attempt: Counter | None = None
    """Attempt that saved the checkpoint. Absent: there was none, so it began anew."""
    step: Counter | None = None
    """Optimizer step of that checkpoint; 0 without one."""


class LostNode(StatusModel):
    """A node whose pods were given up."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the node."""
    since: Timestamp | None = None
    """Since when it has not answered, or when its pods had to be gone."""
    pods: Annotated[tuple[str, ...], Field(max_length=64)] | None = None
    """Pods of this job there that may still run, for all that Kubernetes knows. What they write is
    never read."""


class SmokeTest(StatusModel):
    """What the result said when export had loaded it again, before it was published."""

    prompt: Annotated[str, Field(max_length=256)] | None = None
    """The question."""
    answer: Annotated[str, Field(max_length=256)] | None = None
    """The beginning of the answer, always the likeliest token."""
    tokens: Counter | None = None
    """Tokens of it; the model stopped by itself, or at 24."""


class DestinationStatus(StatusModel):
    """A place that has the result, besides its claim."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Its name in `spec.output.destinations`."""
    uri: Annotated[str, Field(max_length=1024)] | None = None
    """As a job would take it for its model: hf://organization/name, image://repository:tag or
    s3://bucket/prefix."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Commit of the hub, digest of the image, or of the files in the bucket: names just this
    version."""


class Artifact(StatusModel):
    """The result."""

    uri: str | None = None
    """Where it lies: pvc://claim/path."""
    path: str | None = None
    """Folder on that claim; it holds `adapter` and `merged`."""
    digest: str | None = None
    """Digest of its files: sha256:…"""
    bytes: Counter | None = None
    """Size."""
    step: Counter | None = None
    """Optimizer step whose weights these are."""
    formats: (
        Annotated[
            tuple[str, ...],
            Field(max_length=2, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Adapter, Merged or both."""
    smoke_test: SmokeTest | None = None
    """A question to the result and its answer."""
    serving_path: str | None = None
    """Manifest on that claim that serves the merged model with vLLM: `kubectl apply` it. The
    ConfigMap `<name>-run` holds it, too, under the key `serving.yaml`."""
    destinations: (
        Annotated[
            tuple[DestinationStatus, ...],
            Field(max_length=4, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Where it was pushed to."""


class Logs(StatusModel):
    """Where logs and step metrics lie, on the claim of `spec.storage`."""

    claim: str | None = None
    """Name of the claim."""
    path: str | None = None
    """Folder on the claim with one log for each rank of the present attempt."""
    metrics_path: str | None = None
    """File on the claim with one JSON object for each step and evaluation."""
    answers_path: str | None = None
    """Page on the claim with prompts, references and the answers of the untouched and the tuned
    model, once training is over; the same as JSON lines beside it (`answers.jsonl`). It is
    published with the model, too."""


MAX_EVENTS = 8
"""Events of a job's whole life."""


class FineTuneJobStatus(StatusModel):
    """What is known about the job. Written by the operator alone."""

    observed_generation: int = -1
    """Generation of the spec that this status speaks of; -1: the operator has not seen it."""
    phase: Phase | None = None
    """Where the job stands, for people; scripts use the conditions."""
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_map("type"))
    ] = ()
    """The state, for machines: Reconciling, Stalled, Succeeded, Failed and more."""
    prepare_attempt: Counter | None = None
    """Number of the present prepare Job, <name>-p<n>. Absent: not begun."""
    attempt: Counter | None = None
    """Number of the present training gang, <name>-a<n>. Absent: not begun."""
    score_attempt: Counter | None = None
    """Number of the present Job of scorers, <name>-s<n>. Absent: there is none."""
    export_attempt: Counter | None = None
    """Number of the present export Job, <name>-x<n>. Absent: not begun."""
    prepare_job_uid: Annotated[str | None, Field(alias="prepareJobUID")] = None
    """UID of that prepare Job, once it was created."""
    job_uid: Annotated[str | None, Field(alias="jobUID")] = None
    """UID of that training Job, once it was created."""
    score_job_uid: Annotated[str | None, Field(alias="scoreJobUID")] = None
    """UID of that Job of scorers, once it was created."""
    export_job_uid: Annotated[str | None, Field(alias="exportJobUID")] = None
    """UID of that export Job, once it was created."""
    prepared: Timestamp | None = None
    """When prepare succeeded."""
    trained: Timestamp | None = None
    """When training succeeded."""
    scored: Timestamp | None = None
    """When all scorers had ended, well or not."""
    exported: Timestamp | None = None
    """When export succeeded."""
    start_timeouts: Counter | None = None
    """Gangs in a row that were given back because they were not ready in time."""
    next_attempt_time: Timestamp | None = None
    """Not before this time is the next attempt created."""
    restarts: Restarts | None = None
    """Restarts after failures. Absent: none."""
    past_failures: Annotated[tuple[PastFailure, ...], Field(max_length=10)] | None = None
    """Failures after which the job was started again: the newest ten, the newest last."""
    resumed_from: ResumedFrom | None = None
    """Where the present attempt of the training began, once it said so. Absent for attempt 0."""
    lost_nodes: (
        Annotated[tuple[LostNode, ...], Field(max_length=64, json_schema_extra=list_map("name"))]
        | None
    ) = None
    """Nodes that do not answer, with pods of this job that were given up. A node leaves the list
    when its pods are gone: once it answers again, or was declared dead."""
    resolved: Resolved | None = None
    """What absent fields became, and why."""
    model: ModelStatus | None = None
    """The model that was prepared."""
    lineage: Lineage | None = None
    """Where the model comes from, for `job://` models."""
    lock: Lock | None = None
    """What decides the result; known after prepare, published beside the model as `lock.json`."""
    reused: Reused | None = None
    """A result of another job with the same lock, see `spec.output.reuse`."""
    data: DataStatus | None = None
    """The data that was prepared."""
    events: Annotated[tuple[str, ...], Field(max_length=MAX_EVENTS)] | None = None
    """Reasons of the Events posted about the job, the newest last: at most eight in its life, so
    that it never floods the namespace. The last one is kept for its end."""
    progress: Progress | None = None
    """How far the present stage is."""
    metrics: Metrics | None = None
    """Newest numbers of the training."""
    scorers: (
        Annotated[
            tuple[ScorerStatus, ...],
            Field(max_length=MAX_SCORERS, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """What the scorers of `spec.evaluation.generation.scorers` said."""
    human_evaluation: HumanEvaluation | None = None
    """What people think of the answers."""
    checkpoints: Checkpoints | None = None
    """Saved training state."""
    pending_reason: Message | None = None
    """One sentence: what the job waits for and what to do. Absent while nothing is waited for."""
    failure: Failure | None = None
    """The failure that counts; after a restart it goes when pods run again, and is found in
    pastFailures."""
    artifact: Artifact | None = None
    """The result."""
    logs: Logs | None = None
    """Where logs lie."""
    start_time: Timestamp | None = None
    """When the operator took the job up."""
    completion_time: Timestamp | None = None
    """When it ended, well or not, with no pod left but those of `lostNodes`."""
    suspend_time: Timestamp | None = None
    """Since when it is suspended, by `spec.suspend` or for want of GPU-hours. Absent: it is not."""
    suspended_seconds: Counter | None = None
    """Seconds that it was suspended, before suspendTime."""
    goodput: Goodput | None = None
    """What the time of the job is spent on."""
    children_removed_time: Timestamp | None = None
    """When the children were removed by ttlSecondsAfterFinished."""
