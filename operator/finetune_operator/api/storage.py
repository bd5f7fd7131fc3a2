"""Where files lie: ``spec.storage`` and ``spec.output``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .destinations import Destination, GgufType, OutputFormat
from .schema import LIST_SET, ObjectName, Quantity, Rule, SpecModel, exactly_one, list_map
from .sources import OutputUri


class ClaimRef(SpecModel):
    """A PersistentVolumeClaim in the job's namespace."""

    name: ObjectName
    """Name of the PersistentVolumeClaim."""


class Storage(SpecModel):
    """The volume for data, checkpoints and logs. The job's files lie under its own folder
    `<namespace>/<uid>`. More than one worker needs ReadWriteMany."""

    claim_ref: ClaimRef | None = None
    """A claim that exists. What the job writes stays there after the job is deleted."""
    size: Quantity | None = None
    """Size of a claim that is made for this job and deleted with it; `output.uri` is then needed
    for the result."""
    class_name: ObjectName | None = None
    """StorageClass for `size`. Absent: the cluster's default."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "claim_ref",
            "size",
            message="set exactly one of claimRef (a claim that exists) and size (a claim made "
            "for this job)",
        ),
        Rule(
            cel="!has(self.className) || has(self.size)",
            message="className goes with size: remove it, an existing claim has its class already",
            field_path=".className",
            check=lambda storage: storage.class_name is None or storage.size is not None,
        ),
    )


class Reuse(StrEnum):
    """Whether a result that is there already may stand for training."""

    NEVER = "Never"
    SAME_LOCK = "SameLock"


class Gguf(SpecModel):
    """What the GGUF file is like."""

    type: GgufType = GgufType.F16
    """Of the weights: F32, F16, BF16, or Q8_0 (8 bits a weight, with a scale for each 32). Norms
    are always F32. Absent: F16."""


class Output(SpecModel):
    """Where the result goes, and in which forms."""

    uri: OutputUri | None = None
    """`pvc://claim/path`, another place than `storage`; never deleted by the operator. Absent:
    the folder `output` among the job's files on `storage.claimRef`."""
    formats: Annotated[
        tuple[OutputFormat, ...],
        Field(min_length=1, max_length=3, json_schema_extra=LIST_SET),
    ] = (OutputFormat.MERGED,)
    """Adapter (LoRA weights for peft), Merged (a whole model for transformers), GGUF (a whole model
    as one file for llama.cpp and Ollama; for Llama, Mistral, Qwen2 and Qwen3 with a byte-level
    tokenizer, others are refused when the model is prepared)."""
    gguf: Gguf | None = None
    """What the GGUF file is like, where `formats` has GGUF."""
    reuse: Reuse = Reuse.NEVER
    """SameLock: where a finished job of this namespace has published the result of the same lock
    (`status.lock`) on the same claim, in all wanted formats, that result is checked against its
    hashes and copied instead of training again; no training pod starts. Never: every job trains."""
    destinations: (
        Annotated[
            tuple[Destination, ...],
            Field(min_length=1, max_length=4, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Where the result is pushed to, in this order, once it lies on its claim. The job succeeds
    when all of them have it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.gguf) || (has(self.formats) && 'GGUF' in self.formats)",
            message="gguf says what the GGUF file is like and none is made: add GGUF to formats, "
            "or remove it",
            field_path=".gguf",
            check=lambda output: output.gguf is None or OutputFormat.GGUF in output.formats,
        ),
        Rule(
            # the API server fills in no defaults within lists
            cel="!has(self.destinations) || !has(self.formats) || self.destinations.all(each,"
            " (has(each.format) ? each.format : 'Merged') in self.formats)",
            message="a destination takes a form that is not made: add its format to formats, or "
            "set another format",
            field_path=".destinations",
            check=lambda output: all(
                each.format in output.formats for each in output.destinations or ()
            ),
        ),
    )
