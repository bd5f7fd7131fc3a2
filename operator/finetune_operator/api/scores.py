"""Numbers of the model in ``FineTuneJob.status.metrics``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .paired import MAX_LISTS, PairedScores
from .schema import Decimal, StatusModel


class Scores(StatusModel):
    """Scores on the held-out rows."""

    eval_loss: Decimal | None = None
    """Mean loss per supervised token, in nats."""
    perplexity: Decimal | None = None
    """e to the power of evalLoss."""
    token_accuracy: Decimal | None = None
    """Share of the supervised tokens that the model found likeliest."""
    bleu: Decimal | None = None
    """BLEU of all answers, 0 to 100."""
    chr_f: Decimal | None = None
    """chrF of all answers, 0 to 100."""
    rouge_l: Decimal | None = None
    """Mean ROUGE-L F1 of the answers, 0 to 1."""
    exact_match: Decimal | None = None
    """Share of answers that equal their reference."""
    regex_match: Decimal | None = None
    """Share of answers in which `spec.evaluation.generation.regex` is found."""
    train_sample_loss: Decimal | None = None
    """Loss on a fixed sample of the training rows, measured as evalLoss is."""
    generalization_gap: Decimal | None = None
    """evalLoss less trainSampleLoss."""
    json_valid: Decimal | None = None
    """Share of answers that are JSON."""
    general_loss: Decimal | None = None
    """Mean loss per supervised token of the rows of `spec.data.general`, in nats."""
    general_perplexity: Decimal | None = None
    """e to the power of generalLoss."""


class DatasetBaseline(StatusModel):
    """The untouched model on the rows of one source."""

    loss: Decimal | None = None
    """Mean loss per supervised token, in nats."""
    perplexity: Decimal | None = None
    """e to the power of it."""


class DatasetScores(StatusModel):
    """Scores on the rows of one source."""

    role: Literal["Eval", "General"]
    """Eval: held-out rows, of `spec.data.eval` or of a training source. General: of
    `spec.data.general`."""
    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the source."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Supervised tokens that the loss is a mean of."""
    loss: Decimal | None = None
    """Mean loss per supervised token, in nats."""
    perplexity: Decimal | None = None
    """e to the power of it."""
    baseline: DatasetBaseline | None = None
    """The untouched model on the same rows."""


class Metrics(Scores):
    """Newest numbers; the final ones after the end."""

    loss: Decimal | None = None
    """Training loss per supervised token, in nats."""
    learning_rate: Decimal | None = None
    """Learning rate of the newest step."""
    grad_norm: Decimal | None = None
    """Norm of all gradients before clipping."""
    baseline: Scores | None = None
    """The untouched model on the same rows."""
    paired_prompts: Annotated[tuple[PairedScores, ...], Field(max_length=MAX_LISTS)] | None = None
    """The lists of `spec.evaluation.pairedPrompts`."""
    datasets: Annotated[tuple[DatasetScores, ...], Field(max_length=16)] | None = None
    """The same source by source: the first 16, eval before general."""
