"""run.json: all that the operator tells the trainer about a job.

Wrong content is a ``ConfigError`` that names the field; the operator writes this file, so such
an error means that the two images do not fit together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

RUN_JSON = Path("/etc/finetune/run.json")
WORKSPACE = Path("/workspace")
METRICS_PORT = 9400


class ConfigError(Exception):
    """run.json cannot be read or does not fit this trainer."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


_NewField: Any = Field(None, exclude_if=lambda value: value is None)
"""Absent is not dumped: the digest of what was prepared before the field was known stays."""


class JobRef(_Section):
    namespace: str
    name: str
    uid: str


class HubRef(_Section):
    """A repository of a model or dataset hub; ``HF_ENDPOINT`` and ``HF_TOKEN_PATH`` apply."""

    repository: str
    revision: str = "main"


class S3Place(_Section):
    """An object of a bucket, or those below a key."""

    bucket: str
    key: str = ""
    """Without '/' at its ends; empty: the whole bucket."""
    endpoint: str | None = None
    """Address of the S3 API; None: what the login says, else Amazon's."""
    region: str | None = None
    login_path: str | None = None
    """Folder with a file for each key of the Secret; None: requests are not signed."""

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"


class SourceJob(_Section):
    """The job that the model comes from. ``ModelSource.path`` is its merged model, its adapter, or
    the folder of all its files, in which the checkpoint is looked for."""

    name: str
    kind: Literal["Merged", "Adapter", "Checkpoint"]
    base_path: str | None = None
    """Adapter: the model that it belongs to, as that job prepared it."""
    step: int | None = None
    """Checkpoint: saved after so many steps."""
    lineage: dict[str, Any] = Field(default_factory=dict)
    """The chain of jobs up to the first, as the FineTuneJob tells it."""


class ModelSource(_Section):
    """Exactly one of ``path`` (mounted file or folder), ``hub`` and ``s3``."""

    path: str | None = None
    hub: HubRef | None = None
    s3: S3Place | None = _NewField
    file: str | None = None
    """Single-file formats: a GGUF file inside the folder or repository."""
    job: SourceJob | None = None
    chat_template_path: str | None = None


class DataSource(_Section):
    """Exactly one of ``path`` (mounted), ``hub``, ``s3`` and ``url`` (https)."""

    name: str
    field: str
    """Path of this source in the FineTuneJob, for messages: ``spec.data.train[0]``."""
    path: str | None = None
    hub: HubRef | None = None
    s3: S3Place | None = _NewField
    url: str | None = None
    file: str | None = None
    config: str | None = _NewField
    """Of a hub repository, see ``prepare.configs``."""
    split: str | None = _NewField
    weight: str | None = _NewField
    """Decimal number; all training sources have one, or none has. See ``prepare.mixing``."""
    format: Literal["Auto", "Chat", "Instruction", "Completion"] = "Auto"
    fields: dict[str, str] = Field(default_factory=dict)
    """Column of the source by role: messages, tools, prompt, response, input, system,
    text, id, group."""


DropOrFail = Literal["Drop", "Fail"]
Policy = Literal["Drop", "Report", "Fail"]


class NearDuplicates(_Section):
    policy: Policy = "Report"
    similarity: float = 0.85
    """Share of common 8-byte pieces from which two rows count as nearly the same."""


class Cleaning(_Section):
    """What happens to rows by rule; the rules are described in ``prepare.cleaning.rules``."""

    normalize: Literal["NFC", "None"] = "NFC"
    broken_rows: DropOrFail = "Drop"
    encoding: DropOrFail = "Drop"
    empty_answers: Policy = "Drop"
    duplicate_ids: Policy = "Report"
    exact_duplicates: Policy = "Drop"
    length_outliers: Policy = "Report"
    ratio_outliers: Policy = "Report"
    near_duplicates: NearDuplicates = NearDuplicates()
    eval_leakage: Policy = "Report"
    template_refusals: DropOrFail = "Drop"

    def policy(self, rule: str) -> Policy:
        """Of a rule by its name in the FineTuneJob; rules that have no field always drop."""
        by_name = {to_camel(name): getattr(self, name) for name in type(self).model_fields}
        value = by_name.get(rule, "Drop")
        return value.policy if isinstance(value, NearDuplicates) else value


class Expect(_Section):
    """Bounds that data must keep; None: no bound."""

    min_rows: int = 1
    """Rows to train on, after cleaning and without those held out."""
    max_broken_fraction: float = 0.05
    """Of the rows of a source: those under ``brokenRows``, ``encoding``, ``templateRefusals``."""
    max_dropped_fraction: float | None = None
    """Of the rows of all training sources: those dropped under any rule."""
    max_truncated_fraction: float | None = None
    """Of the rows to train on: those whose end is cut off."""
    max_leaked_fraction: float = 0.5
    """Of the held-out rows, and of the general ones: those that are equal to a training row."""


class TermList(_Section):
    """Terms that the report compares with each other."""

    name: str
    words: tuple[str, ...]


class Report(_Section):
    """What the report counts besides; see ``prepare.report``."""

    columns: tuple[str, ...] = ()
    """Columns of the training sources whose values are counted."""
    terms: tuple[TermList, ...] = ()


class UserContainer(_Section):
    """A program of the user's, which does not run here."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


class Data(_Section):
    train: tuple[DataSource, ...]
    eval: tuple[DataSource, ...] = ()
    general: tuple[DataSource, ...] = ()
    """Rows for what the model could do before; they are only scored."""
    augment: UserContainer | None = None
    """See ``prepare.augment``."""
    eval_fraction: float = 0.05
    """Share of train rows held out by content hash, used where ``eval`` is empty."""
    sequence_length: int
    packing: Literal["Isolated", "None"] = "Isolated"
    loss_on: Literal["Assistant", "Response", "All"] = "Assistant"
    overlong: Literal["Truncate", "Drop", "Split", "Fail"] = "Truncate"
    cleaning: Cleaning = Cleaning()
    expect: Expect = Expect()
    report: Report = Report()
    max_download_bytes: int = 10 * 2**30


class Lora(_Section):
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    rslora: bool = False
    """Scale alpha / √rank instead of alpha / rank."""
    dora: bool = False
    """Size and direction of the weights are trained apart."""
    quantization: Literal["NF4"] | None = _NewField
    """See ``quantization``."""
    target_modules: Literal["AllLinear"] | tuple[str, ...] = "AllLinear"


class Method(_Section):
    """``lora``, or full fine-tuning where it is absent."""

    lora: Lora | None = None

    @property
    def quantized(self) -> bool:
        """The frozen weights are kept in few bits."""
        return self.lora is not None and self.lora.quantization is not None


class Schedule(_Section):
    type: Literal["Cosine", "Linear", "Constant"] = "Cosine"
    warmup_fraction: float = 0.03
    final_fraction: float = 0.1
    """Learning rate of the last step as a share of the peak."""


class Optimizer(_Section):
    type: Literal["AdamW", "SGD"] = "AdamW"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


class Training(_Section):
    """Exactly one of ``epochs`` and ``steps``."""

    epochs: float | None = None
    steps: int | None = None
    micro_batch_size: int
    """Packed rows per rank and forward pass."""
    accumulation: int
    """Forward passes per optimizer step; global batch = micro × accumulation × world size."""
    learning_rate: float
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    max_grad_norm: float = 1.0
    """0 switches clipping off."""
    dropout: float = 0.0
    neftune_noise_alpha: float | None = None
    """See ``neftune``."""
    precision: Literal["Auto", "BF16", "FP16", "FP32"] = "Auto"
    activation_checkpointing: bool = False
    seed: int = 42


OffloadDevice = Literal["None", "CPU"]


class Offload(_Section):
    """What ZeRO keeps in host memory instead of the GPU's; see ``zero_config``."""

    optimizer: OffloadDevice = "None"
    """Master weights and optimizer state; the update is made there. At ZeRO 1 and above."""
    parameters: OffloadDevice = "None"
    """The weights that compute, between their uses; at ZeRO 3."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What lies in host memory, by name."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) == "CPU")


class Workers(_Section):
    count: int
    ranks_per_worker: int
    device: Literal["CPU", "GPU"]

    @property
    def world_size(self) -> int:
        return self.count * self.ranks_per_worker


Metric = Literal["BLEU", "ChrF", "RougeL", "ExactMatch", "Regex", "JSONValid"]


class Scorer(UserContainer):
    """A program of the user's that reads the answers, in a pod of its own."""

    name: str


class Generation(_Section):
    """Answers to held-out prompts, always the likeliest token, and what they are scored by."""

    metrics: tuple[Metric, ...] = ("BLEU", "ChrF", "RougeL", "ExactMatch")
    regex: str | None = None
    """What ``Regex`` looks for in an answer."""
    max_prompts: int = 64
    max_new_tokens: int = 128
    every_steps: int | None = None
    """None: only before the first and after the last step."""
    scorers: tuple[Scorer, ...] = ()


class Human(_Section):
    """A blind comparison for people; see ``judging.bundle``."""

    config_map: str
    """Where their ratings are to be put; the page tells it to them."""


class PairedPrompt(_Section):
    """``{term}`` stands for each of the two terms."""

    prompt: str
    answer: str


class PairedPrompts(_Section):
    """See ``judging.paired``."""

    name: str
    terms: tuple[str, str]
    prompts: tuple[PairedPrompt, ...]


class Overfitting(_Section):
    """See ``judging.curve``."""

    action: Literal["Ignore", "Warn", "StopKeepBest"] = "Warn"
    patience: int = 3
    """Evaluations in a row without an improvement."""
    min_delta: float = 0.0
    """What counts as an improvement of the held-out loss, in nats."""
    max_gap: float | None = None
    """Of held-out and training loss, in nats."""


class Evaluation(_Section):
    every_steps: int | None = None
    """None: only before the first and after the last step."""
    baseline: bool = True
    """Score the untouched model first."""
    generation: Generation | None = None
    human: Human | None = None
    paired_prompts: tuple[PairedPrompts, ...] = ()
    overfitting: Overfitting = Overfitting()


class GateScore(_Section):
    """See ``judging.gate``."""

    metric: Metric | Literal["EvalLoss", "Perplexity", "TokenAccuracy"]
    at_least: float | None = None
    at_most: float | None = None
    min_improvement: float | None = None
    """Over the untouched model."""


class HumanGate(_Section):
    """People decide whether the model is published. Without ``finding`` they have not yet."""

    bundle: str | None = None
    """Digest of what they rated."""
    finding: str | None = None
    """What they said, once that let the model pass."""


class Forgetting(_Section):
    """What may be lost on the general rows."""

    max_loss_increase: float
    """Over the untouched model, in nats per token."""


class ScorerBound(_Section):
    """See ``judging.gate``. More is better."""

    name: str
    """Of the scorer."""
    metric: str
    at_least: float | None = None
    min_improvement: float | None = None
    """Over the untouched model."""


class Gate(_Section):
    """What the model has to reach to be published."""

    scores: tuple[GateScore, ...] = ()
    scorers: tuple[ScorerBound, ...] = ()
    forgetting: Forgetting | None = None
    human: HumanGate | None = None


class Checkpoint(_Section):
    every_steps: int | None = None
    every_seconds: int = 1800
    """Where ``every_steps`` is None."""
    asynchronous: bool = True
    """Written beside the training, from a copy in host memory."""
    keep: int = 2
    on_disk_full: Literal["RemoveOldest", "Stop"] = "RemoveOldest"
    after_success: Literal["Keep", "Delete"] = "Keep"

    @property
    def seconds(self) -> int | None:
        """After which the state is saved by the clock; None: it is not."""
        return self.every_seconds if self.every_steps is None else None


class SpikeRule(_Section):
    """See ``spikes``."""

    factor: float = 8.0
    window_steps: int = 64


class PassedOver(_Section):
    """Steps whose rows are left out, after an attempt that they ended."""

    attempt: int
    """Checkpoints of this attempt and those before it are suspect from ``first_step`` on."""
    first_step: int
    """From 1."""
    last_step: int
    """Inclusive."""


class Recovery(_Section):
    hang_after_seconds: int = 300
    """Without a sign of life from a rank that trains or evaluates; see ``patience``."""
    on_non_finite: Literal["Skip", "RollBack", "Stop"] = "Skip"
    on_loss_spike: Literal["Ignore", "Skip", "RollBack", "Stop"] = "Ignore"
    max_skipped_steps: int = 3
    """Steps in a row that may be left out for their numbers; one more ends the attempt."""
    loss_spike: SpikeRule = SpikeRule()
    passed_over: tuple[PassedOver, ...] = ()

    def passes_over(self, step: int) -> bool:
        """Whether the rows of a step, numbered from 1, are left out."""
        return any(each.first_step <= step <= each.last_step for each in self.passed_over)


Form = Literal["Adapter", "Merged", "GGUF"]
FOLDERS: Final[Mapping[str, str]] = {"Adapter": "adapter", "Merged": "merged", "GGUF": "gguf"}
"""Where the forms of a result lie below its place."""
GgufType = Literal["F32", "F16", "BF16", "Q8_0"]


class HubPlace(_Section):
    """A repository of a model hub; ``HF_ENDPOINT`` applies."""

    repository: str
    revision: str = "main"
    private: bool = True
    """Of a repository that is made."""
    token_path: str
    """File with the access token."""


class OciPlace(_Section):
    image: str
    """``registry/repository:tag``"""
    plain_http: bool = Field(False, alias="plainHTTP")
    login_path: str | None = None
    """File in the form of docker's config.json; None: no login."""


class Destination(_Section):
    """A place to push to; exactly one of ``hub``, ``oci`` and ``s3``."""

    name: str
    field: str
    """Path in the FineTuneJob, for messages: ``spec.output.destinations[0]``."""
    format: Form
    hub: HubPlace | None = None
    oci: OciPlace | None = None
    s3: S3Place | None = None


class Output(_Section):
    formats: tuple[Form, ...] = ("Merged",)
    gguf_type: GgufType = "F16"
    """Of the weights in a GGUF file."""
    external: bool = False
    """True: publish to the mount ``/output`` instead of ``/workspace/output``."""
    destinations: tuple[Destination, ...] = ()
    published_path: str | None = None
    """Where prepare looks for a result that may be reused; None: nowhere."""


class Lock(_Section):
    """What decides the result, as export is told it. ``digest`` covers the rest of it."""

    digest: str
    model: str
    model_commit: str | None = None
    data: str
    spec: str
    image: str
    image_digest: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int


class RunConfig(_Section):
    job: JobRef
    model: ModelSource
    data: Data
    method: Method
    training: Training
    zero_stage: Literal[0, 1, 2, 3]
    offload: Offload = Offload()
    workers: Workers
    evaluation: Evaluation = Evaluation()
    gate: Gate | None = None
    checkpoint: Checkpoint = Checkpoint()
    recovery: Recovery = Recovery()
    output: Output = Output()

    @property
    def global_batch_size(self) -> int:
        """Packed rows per optimizer step over all ranks."""
        return self.training.micro_batch_size * self.training.accumulation * self.workers.world_size


def load_run_config(path: Path = RUN_JSON) -> RunConfig:
    """Read and check run.json. Raises ``ConfigError`` with every wrong field."""
    try:
        return RunConfig.model_validate(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError(f"{path}: {faults}") from error
