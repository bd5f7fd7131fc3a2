"""What the trainer says about itself: /progress and the termination message.

Both come from a tenant's pod, so they are read as data from a stranger: bounded, typed, and
dropped where they make no sense.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

MAX_MESSAGE_BYTES = 4096
MAX_DATASETS = 16
MAX_LISTS = 4


def _finite(value: float | None) -> float | None:
    """Where NaN and infinity make no sense, they count as unknown."""
    return None if value is not None and not math.isfinite(value) else value


Number = Annotated[float | None, AfterValidator(_finite)]
Measured = float | None
"""Also what is not finite: JSON has it as the word ``NaN``, ``Infinity`` or ``-Infinity``."""
Count = Annotated[int, Field(ge=0, le=2**62)]
Word = Annotated[str, Field(max_length=128)]


class _Report(BaseModel):
    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


def _or_none(kind: type[_Report]) -> BeforeValidator:
    """One that makes no sense is none: the rest of the report still counts."""

    def read(value: Any) -> Any:
        try:
            return None if value is None else kind.model_validate(value)
        except ValidationError:
            return None

    return BeforeValidator(read)


def _first(most: int, kind: type[_Report]) -> BeforeValidator:
    """The first ones; where one makes no sense there are none: the rest still counts."""

    def read(value: Any) -> Any:
        try:
            return [kind.model_validate(each) for each in value[:most]]
        except (TypeError, ValidationError):
            return []

    return BeforeValidator(read)


class ScoresReport(_Report):
    eval_loss: Measured = None
    perplexity: Measured = None
    token_accuracy: Measured = None
    bleu: Measured = None
    chr_f: Measured = None
    rouge_l: Measured = None
    exact_match: Measured = None
    regex_match: Measured = None
    json_valid: Measured = None
    train_sample_loss: Measured = None
    generalization_gap: Measured = None
    general_loss: Measured = None
    general_perplexity: Measured = None


class DatasetNumbers(_Report):
    loss: Measured = None
    perplexity: Measured = None


class DatasetReport(DatasetNumbers):
    """Scores on the rows of one source."""

    role: Literal["Eval", "General"]
    name: Annotated[str, Field(min_length=1, max_length=63)]
    tokens: Count | None = None
    baseline: DatasetNumbers | None = None


class PairedNumbersReport(_Report):
    difference: Measured = None
    absolute_difference: Measured = None
    first_likelier: Measured = None


class PairedReport(PairedNumbersReport):
    """A list of paired prompts."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    pairs: Count | None = None
    baseline: PairedNumbersReport | None = None


class MetricsReport(ScoresReport):
    loss: Measured = None
    learning_rate: Measured = None
    grad_norm: Measured = None
    baseline: ScoresReport | None = None
    datasets: Annotated[tuple[DatasetReport, ...], _first(MAX_DATASETS, DatasetReport)] = ()
    paired_prompts: Annotated[tuple[PairedReport, ...], _first(MAX_LISTS, PairedReport)] = ()


class CheckpointReport(_Report):
    step: Count
    verified: bool | None = None
    bytes: Count | None = None


class BestReport(_Report):
    step: Count
    eval_loss: Number = None


class ResumedReport(_Report):
    """Where an attempt began: the checkpoint that it loaded, or step 0 without one."""

    attempt: Count | None = None
    step: Count
    damaged: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=8)] = ()
    """Newer checkpoints that are not whole."""


class AccountReport(_Report):
    """Where the time of an attempt went: seconds of each kind of work that was over at ``at``."""

    at: Annotated[float, Field(ge=0, le=1e11)]
    doing: Word = ""
    """What has been going on since then."""
    seconds: Annotated[dict[Word, Annotated[float, Field(ge=0, le=1e11)]], Field(max_length=16)] = (
        Field(default_factory=dict)
    )


class JudgementReport(_Report):
    """What was read from the losses so far."""

    finding: Literal[
        "Overfitting", "Diverged", "WorseThanBase", "NoImprovement", "Underfitting", "WellFitted"
    ]
    message: Annotated[str, Field(max_length=1024)] = ""


class _Training(_Report):
    """Numbers that /progress and the last words of train share."""

    step: Count | None = None
    steps: Count | None = None
    tokens_per_second: Number = None
    metrics: MetricsReport = MetricsReport()
    checkpoints: Annotated[tuple[CheckpointReport, ...], Field(max_length=1000)] = ()
    best: BestReport | None = None
    resumed_from: ResumedReport | None = None
    skipped: Annotated[dict[Word, Count], Field(max_length=16)] | None = None
    last_bad_step: Count | None = None
    loss_spikes: Count | None = None
    peak_memory_bytes: Count | None = None
    judgement: Annotated[JudgementReport | None, _or_none(JudgementReport)] = None
    account: Annotated[AccountReport | None, _or_none(AccountReport)] = None


Moment = Annotated[float, Field(ge=0, le=1e11)]


class BeatReport(_Report):
    """The last sign of life of a rank."""

    at: Moment


class ProgressReport(_Training):
    """Rank 0's answer to ``GET /progress``."""

    attempt: Count
    phase: Word = ""
    epoch: Number = None
    eta_seconds: Number = None
    updated_at: Moment
    ranks: Annotated[tuple[BeatReport, ...], Field(max_length=8192)] = ()

    @property
    def signs(self) -> tuple[float, ...]:
        """Another value: a rank has done something since."""
        return self.attempt, self.updated_at, *(beat.at for beat in self.ranks)


class MeetingReport(_Report):
    """How long a rank had gone on after it last met the others, at the end of a step."""

    met: Count
    seconds: Annotated[float, Field(ge=-1e9, le=1e9)]


class FailureReport(_Report):
    failure_class: Annotated[Word | None, Field(alias="class")] = None
    signature: Word | None = None
    cause: str | None = None
    rank: Count | None = None
    exit_code: int | None = None
    step: Count | None = None
    message: str = ""
    hint: str | None = None
    lines: tuple[str, ...] = ()
    at: Number = None
    since: Annotated[MeetingReport | None, _or_none(MeetingReport)] = None


class ShapeReport(_Report):
    """Sizes of the model, for the memory plan."""

    trainable: Count | None = None
    largest: Count | None = None
    layers: Count | None = None
    hidden: Count | None = None
    attention: Count | None = None
    key_value: Count | None = None
    intermediate: Count | None = None
    vocabulary: Count | None = None
    gated: bool | None = None
    rms_norm: bool | None = None
    stepwise_gelu: bool | None = None
    chunked_loss: bool | None = None
    by_sample: bool | None = None
    fused: bool | None = None
    adapters: Count | None = None
    adapter_inputs: Count | None = None
    adapter_outputs: Count | None = None
    quantized: Count | None = None
    quantized_bytes: Count | None = None
    largest_quantized: Count | None = None


class ModelReport(_Report):
    architecture: Word | None = None
    parameters: Count | None = None
    context_length: Count | None = None
    digest: Word | None = None
    commit: Word | None = None
    shape: Annotated[ShapeReport | None, _or_none(ShapeReport)] = None


Counts = Annotated[dict[Word, Count], Field(max_length=64)]


class SourceReport(_Report):
    field: Word | None = None
    format: Word | None = None
    decided: Annotated[str, Field(max_length=256)] | None = None
    rows: Count | None = None
    kept: Count | None = None
    drawn: Count | None = None
    not_drawn: Count | None = None
    epochs: Word | None = None
    dropped: Counts | None = None


class AugmentReport(_Report):
    rows_in: Count | None = None
    rows_out: Count | None = None


class DataReport(_Report):
    prepared_by: Annotated[str, Field(max_length=253)] | None = None
    augment: AugmentReport | None = None
    rows: Count | None = None
    kept: Count | None = None
    changed: Count | None = None
    dropped: Counts | None = None
    reported: Counts | None = None
    truncated: Count | None = None
    tokens: Count | None = None
    supervised_tokens: Count | None = None
    packed_rows: Count | None = None
    eval_rows: Count | None = None
    eval_tokens: Count | None = None
    general_rows: Count | None = None
    general_tokens: Count | None = None
    longest_row: Count | None = None
    most_supervised: Count | None = None
    digest: Word | None = None
    warnings: (
        Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=8)] | None
    ) = None
    sources: Annotated[tuple[SourceReport, ...], Field(max_length=8)] | None = None


class FoundReport(_Report):
    """What lies at the place of the result before the job has made one."""

    job: Annotated[str, Field(max_length=253)]
    uid: Annotated[str, Field(max_length=64)]
    lock: Word
    formats: Annotated[tuple[Word, ...], Field(max_length=3)]


class SmokeTestReport(_Report):
    prompt: Annotated[str, Field(max_length=256)] = ""
    answer: Annotated[str, Field(max_length=256)] = ""
    tokens: Count | None = None


def _smoke_test(value: Any) -> Any:
    """One that makes no sense is none: the rest of the report still counts."""
    try:
        return None if not value else SmokeTestReport.model_validate(value)
    except ValidationError:
        return None


class DestinationReport(_Report):
    name: Annotated[str, Field(min_length=1, max_length=63)]
    uri: Annotated[str, Field(max_length=1024)] = ""
    digest: Word | None = None


class ArtifactReport(_Report):
    formats: Annotated[tuple[Word, ...], Field(max_length=3)] = ()
    digest: Word | None = None
    bytes: Count | None = None
    step: Count | None = None
    max_logit_difference: Number = None
    quantization_logit_difference: Number = None
    smoke_test: Annotated[SmokeTestReport | None, BeforeValidator(_smoke_test)] = None
    destinations: Annotated[tuple[DestinationReport, ...], Field(max_length=4)] = ()


class GateReport(_Report):
    message: Annotated[str, Field(max_length=1024)] = ""


class RatingReport(_Report):
    """The blind comparison that export wrote for people."""

    bundle: Annotated[str, Field(min_length=8, max_length=128)]
    items: Annotated[int, Field(ge=1, le=1000)]
    same: Count = 0


class LastWords(_Training):
    """A termination message."""

    stage: Literal["prepare", "train", "export"]
    attempt: Count
    outcome: Literal["succeeded", "failed", "preempted"]
    failure: FailureReport | None = None
    model: ModelReport | None = None
    data: DataReport | None = None
    versions: Annotated[dict[Word, Word], Field(max_length=16)] | None = None
    """Of prepare: the trainer and the libraries that compute."""
    published: Annotated[FoundReport | None, _or_none(FoundReport)] = None
    """Of prepare, where the job may reuse a result."""
    refused: Annotated[str, Field(max_length=1024)] | None = None
    """Of export: why the result of another job was not taken."""
    artifact: ArtifactReport | None = None
    gate: GateReport | None = None
    """What export found the gate to be passed by."""
    rating: Annotated[RatingReport | None, _or_none(RatingReport)] = None
    train: _Training | None = None
    """In export's words: train's final numbers again."""


def read_progress(body: bytes) -> ProgressReport | None:
    """The report, or None where the body is not one."""
    try:
        return ProgressReport.model_validate(_parsed(body))
    except (ValueError, ValidationError, RecursionError):
        return None


def read_last_words(message: str) -> LastWords | None:
    """The record of a container that ended by its own will; None where it died without one."""
    try:
        return LastWords.model_validate(_parsed(message[:MAX_MESSAGE_BYTES]))
    except (ValueError, ValidationError, RecursionError):
        return None


def _parsed(text: str | bytes) -> Any:
    """JSON may hold half of a surrogate pair, which no status and no Event can: it becomes "?"."""
    content = json.loads(text)
    unicode = json.dumps(content, ensure_ascii=False).encode(errors="replace")
    return json.loads(unicode)
