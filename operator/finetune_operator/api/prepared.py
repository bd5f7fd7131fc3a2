"""What prepare found: ``status.model`` and ``status.data``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import Decimal, StatusModel
from .status_types import Counter


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
    key_value: Counter | None = None
    """Heads of keys × head size."""
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
    """The trainer computes its attention sample by sample, without a mask."""
    fused: bool | None = None
    """On GPUs the trainer has one kernel each for its norms and gates."""
    adapters: Counter | None = None
    """Linear layers with an adapter."""
    adapter_inputs: Counter | None = None
    """Input features of all of them together."""
    adapter_outputs: Counter | None = None
    """Output features of all of them together."""
    quantized: Counter | None = None
    """Parameters that are kept in 4 bits."""
    quantized_bytes: Counter | None = None
    """Bytes that these take with their scales."""
    largest_quantized: Counter | None = None
    """Elements of the largest of their tensors."""


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
    prepared_by: Annotated[str, Field(max_length=253)] | None = None
    """FineTuneJob that prepared this data, where it was taken from another. Absent: this one."""
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
