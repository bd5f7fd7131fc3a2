"""What is trained on what: ``spec.model`` and ``spec.data``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .cleaning import Cleaning, Expect
from .columns import OTHER_ROLES, DataFields, DataFormat, formats_of, has_any
from .data_report import ReportOptions
from .object_store import S3, S3Access
from .schema import (
    DecimalRange,
    DnsLabel,
    Matches,
    ObjectName,
    Rule,
    SpecModel,
    exactly_one,
    list_map,
)
from .user_container import Augment

_PATH = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*"
_IMAGE = rf"image://[a-z0-9][a-zA-Z0-9./:_@-]*(//{_PATH})?"
_CLAIM = rf"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/{_PATH})?"
_JOB = r"job://[a-z]([-a-z0-9]*[a-z0-9])?"
_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9_./-]*"

MODEL_URI = Matches(
    pattern=rf"^({_IMAGE}|{_CLAIM}|{_JOB}|hf://{_REPOSITORY}|{S3})$",
    message="must be image://repository:tag//path, pvc://claim/path, job://name, "
    "hf://organization/model or s3://bucket/prefix; paths without '..', blanks or a leading dot",
)
DATA_URI = Matches(
    pattern=rf"^({_IMAGE}|{_CLAIM}|{S3}|hf://datasets/{_REPOSITORY}(@{_REVISION})?"
    r"|https://[A-Za-z0-9.-]+(:[0-9]+)?/[^ ]*)$",
    message="must be image://repository:tag//path, pvc://claim/path, "
    "hf://datasets/organization/name[@revision], s3://bucket/key or https://host/path; paths "
    "without '..', blanks or a leading dot",
)
OUTPUT_URI = Matches(
    pattern=rf"^{_CLAIM}$",
    message="must be pvc://claim/path; the path without '..', blanks or a leading dot",
)

RelativePath = Annotated[str, Field(min_length=1, max_length=512, pattern=rf"^{_PATH}$")]
ModelUri = Annotated[str, MODEL_URI]
DataUri = Annotated[str, DATA_URI]
OutputUri = Annotated[str, OUTPUT_URI]


class ConfigMapKeyRef(SpecModel):
    """A key of a ConfigMap in the job's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key in the ConfigMap; its value is used as it is."""


class SecretRef(SpecModel):
    """A Secret in the job's namespace. The operator never reads it; the kubelet mounts it."""

    name: ObjectName
    """Name of the Secret. Its key `token` holds the access token."""


class ChatTemplate(SpecModel):
    """Where the chat template comes from."""

    config_map_key_ref: ConfigMapKeyRef
    """ConfigMap key with a Jinja chat template, as tokenizer_config.json would hold it."""


_S3_RULE = Rule(
    cel="!has(self.s3) || self.uri.startsWith('s3://')",
    message="s3 belongs to s3:// addresses: name a bucket in uri, or remove s3",
    field_path=".s3",
    check=lambda source: source.s3 is None or source.uri.startswith("s3://"),
)


class Chosen(SpecModel):
    """This one."""


class ModelCheckpoint(SpecModel):
    """Which checkpoint of another job to start from. Exactly one of `best`, `last` and `step`."""

    best: Chosen | None = None
    """The one with the lowest loss on the held-out rows: `best: {}`."""
    last: Chosen | None = None
    """The newest one: `last: {}`."""
    step: Annotated[int | None, Field(ge=1, le=10_000_000)] = None
    """The one that was saved after so many optimizer steps."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "best",
            "last",
            "step",
            message="set exactly one of best, last and step, for example best: {}",
        ),
    )


class Model(SpecModel):
    """The model to start from."""

    uri: ModelUri
    """Where the model lies: `image://repository:tag//path` (OCI image volume),
    `pvc://claim/path`, `job://name` (what another FineTuneJob of this namespace published; an
    adapter is merged into its base), `hf://organization/model` or `s3://bucket/prefix`."""
    s3: S3Access | None = None
    """How the bucket of an `s3://` address is reached. Absent: Amazon's us-east-1, unsigned."""
    checkpoint: ModelCheckpoint | None = None
    """For `job://`: a checkpoint of that job instead of what it published. The job must have ended,
    well or not, and must have kept it (`checkpoint.keep`, `checkpoint.afterSuccess`)."""
    revision: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    """Branch, tag or commit of an `hf://` model. Absent: `main`. The commit it meant is kept in
    `status.model.commit`."""
    file: RelativePath | None = None
    """A single-file model (GGUF) inside the folder, image or repository. Absent: the folder holds
    a model in the layout of transformers."""
    chat_template: ChatTemplate | None = None
    """Chat template to use. Absent: the model's own; most base models have none."""
    secret_ref: SecretRef | None = None
    """Secret whose key `token` opens private `hf://` models and datasets. Mounted into the
    prepare pod only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="revision belongs to hf:// models: name the version of an image by tag or "
            "digest, or remove revision",
            field_path=".revision",
            check=lambda model: model.revision is None or model.uri.startswith("hf://"),
        ),
        Rule(
            cel="!has(self.file) || !self.uri.startsWith('job://')",
            message="file does not go with job://, where the whole folder is taken: remove file",
            field_path=".file",
            check=lambda model: model.file is None or not model.uri.startswith("job://"),
        ),
        Rule(
            cel="!has(self.checkpoint) || self.uri.startsWith('job://')",
            message="checkpoint belongs to job:// models: name a FineTuneJob, or remove it",
            field_path=".checkpoint",
            check=lambda model: model.checkpoint is None or model.uri.startswith("job://"),
        ),
        _S3_RULE,
    )


class DataSource(SpecModel):
    """One place that rows come from."""

    name: DnsLabel
    """Short name, unique in its list; reports and messages use it."""
    uri: DataUri
    """Where the rows lie: `pvc://claim/path`, `image://repository:tag//path`,
    `hf://datasets/organization/name[@revision]`, `s3://bucket/key-or-prefix` or
    `https://host/path` (the last three at most 10 GiB)."""
    s3: S3Access | None = None
    """How the bucket of an `s3://` address is reached. Absent: Amazon's us-east-1, unsigned."""
    file: RelativePath | None = None
    """A file inside the folder, image or repository. Absent: the path is a file, or all data files
    of its folder; of those named after a split, the ones of this side."""
    config: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    """Config (subset) of an `hf://` dataset, as in `load_dataset(path, config)`. Absent: its
    default or only one."""
    split: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    """Split of an `hf://` dataset, as in `load_dataset(path, split=...)`. Absent: that of this
    side, or the only one."""
    format: DataFormat = DataFormat.AUTO
    """Chat (messages), Instruction (prompt and response), Completion (plain text), or Auto:
    decided by the columns of the first rows. Absent: Auto."""
    fields: DataFields | None = None
    """Names of the columns. Absent: the usual ones of the format."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.file) || !self.uri.startsWith('https://')",
            message="file does not go with https://: put the whole address into uri",
            field_path=".file",
            check=lambda source: source.file is None or not source.uri.startswith("https://"),
        ),
        Rule(
            cel="!(has(self.config) || has(self.split))"
            " || (self.uri.startsWith('hf://') && !has(self.file))",
            message="config and split choose files of an hf:// dataset: remove them, or file",
            field_path=".uri",
            check=lambda source: (
                (source.config is None and source.split is None)
                or (source.uri.startswith("hf://") and source.file is None)
            ),
        ),
        Rule(
            cel="!has(self.fields) || !has(self.format) || self.format == 'Auto'"
            + "".join(
                f" || (self.format == '{format}' && !{has_any('self.fields', others)})"
                for format, others in OTHER_ROLES.items()
            ),
            message="fields must fit format, and name none of another one's columns",
            field_path=".fields",
            check=lambda source: (
                source.fields is None
                or source.format is DataFormat.AUTO
                or {*formats_of(source.fields)} <= {source.format}
            ),
        ),
        _S3_RULE,
    )


class TrainSource(DataSource):
    """One place that training rows come from."""

    weight: Annotated[str, DecimalRange(0, 1_000_000, low_open=True, example="0.7")] | None = None
    """Share of the rows of an epoch that come from this source: its weight among the sum of all
    weights, whatever its size. An epoch has as many rows as the sources have after cleaning; of a
    source with fewer rows than its share each is drawn several times, of one with more some are
    never drawn. All sources have a weight or none has. Absent: an epoch has each row once."""


class Packing(StrEnum):
    """Isolated: several rows share a sequence and never see each other. None: one row each."""

    ISOLATED = "Isolated"
    NONE = "None"


class LossOn(StrEnum):
    """Which tokens teach: every assistant turn, the last response only, or all text."""

    ASSISTANT = "Assistant"
    RESPONSE = "Response"
    ALL = "All"


class Overlong(StrEnum):
    """What happens to a row that is longer than sequenceLength."""

    TRUNCATE = "Truncate"
    DROP = "Drop"
    SPLIT = "Split"
    FAIL = "Fail"


class DataReuse(StrEnum):
    """Whether data that another job has prepared may be taken."""

    SAME_CONTENT = "SameContent"
    NEVER = "Never"


class Data(SpecModel):
    """The rows to train and to evaluate on, and how they become token sequences."""

    train: Annotated[
        tuple[TrainSource, ...],
        Field(min_length=1, max_length=32, json_schema_extra=list_map("name")),
    ]
    """Sources of training rows."""
    eval: (
        Annotated[
            tuple[DataSource, ...],
            Field(min_length=1, max_length=32, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Sources of held-out rows. Absent: a share of the training rows, see `evalFraction`."""
    general: (
        Annotated[
            tuple[DataSource, ...],
            Field(min_length=1, max_length=8, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Sources of rows for what the model could do before, such as some hundred everyday
    conversations. They are never trained on, and scored whenever the held-out rows are:
    `gate.forgetting` bounds what may be lost. Absent: nobody looks."""
    eval_fraction: Annotated[str, DecimalRange(0, 0.5, example="0.05")] | None = None
    """Share of the training rows that is held out where `eval` is absent, as a decimal string;
    chosen by content hash, so stable, and duplicates never stand on both sides. Absent: 0.05."""
    augment: Augment | None = None
    """A container that makes other rows of the training rows before they are cleaned. Absent: they
    stay as they are."""
    sequence_length: Annotated[int, Field(ge=16, le=1048576)] = 1024
    """Tokens in a training sequence, at most what the model supports."""
    packing: Packing = Packing.ISOLATED
    """Isolated packs several rows into a sequence without letting them see each other; None
    gives every row a sequence of its own."""
    loss_on: LossOn = LossOn.ASSISTANT
    """Tokens that are learned: Assistant (all assistant turns), Response (the last one), All."""
    overlong: Overlong = Overlong.TRUNCATE
    """What happens to a row that is longer than `sequenceLength`: Truncate, Drop, Split into
    several, or Fail the job."""
    cleaning: Cleaning = Cleaning()
    """What happens to rows that are broken, empty, doubled, odd or leaked."""
    expect: Expect = Expect()
    """Bounds that the data must keep, checked before a GPU is held."""
    report: ReportOptions | None = None
    """What the report on the data (`status.data.reportPath`) counts besides."""
    reuse: DataReuse = DataReuse.SAME_CONTENT
    """SameContent: where a job of this namespace has prepared the same rows, by their content, with
    the same model, settings and trainer on the same `storage.claimRef`, its data is checked against
    its hashes and copied (`status.data.preparedBy`), and data that this job prepares is kept for
    others in `<namespace>/shared-data`. Never: this job prepares its own and keeps none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.eval) && has(self.evalFraction))",
            message="eval and evalFraction exclude each other: name held-out sources, or hold "
            "out a share of the training rows",
            field_path=".evalFraction",
            check=lambda data: data.eval is None or data.eval_fraction is None,
        ),
        Rule(
            cel="!has(self.general) || has(self.eval) || !has(self.evalFraction)"
            " || double(self.evalFraction) > 0.0",
            message="general rows are scored beside the held-out ones: set eval, or an "
            "evalFraction above 0, or remove general",
            field_path=".general",
            check=lambda data: data.general is None or data.holds_out,
        ),
        Rule(
            cel="!self.train.exists(source, has(source.weight))"
            " || self.train.all(source, has(source.weight))",
            message="some sources have a weight and some have none: give every source a weight, "
            "or none",
            field_path=".train",
            check=lambda data: len({source.weight is None for source in data.train}) == 1,
        ),
    )

    @property
    def holds_out(self) -> bool:
        """There are rows to evaluate on."""
        return self.eval is not None or float(self.eval_fraction or 1) > 0
