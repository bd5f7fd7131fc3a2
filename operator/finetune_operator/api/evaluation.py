"""How the model is judged while it trains: scores on rows that it never learns from."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from .human import Human
from .paired import MAX_LISTS, PairedPrompts
from .schema import LIST_SET, DecimalRange, Rule, SpecModel, list_map
from .scoring import MAX_SCORERS, Scorer

Steps = Annotated[int, Field(ge=1, le=10_000_000)]


class Baseline(StrEnum):
    """Whether the untouched model is scored first."""

    MEASURE = "Measure"
    SKIP = "Skip"


class AnswerMetric(StrEnum):
    """What answers are scored by."""

    BLEU = "BLEU"
    CHRF = "ChrF"
    ROUGE_L = "RougeL"
    EXACT_MATCH = "ExactMatch"
    REGEX = "Regex"
    JSON_VALID = "JSONValid"


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression of Python: {error}") from error
    return pattern


class Generation(SpecModel):
    """Answers to held-out prompts, always the likeliest token. The reference is the last assistant
    turn of the row. Rows of format Completion have no prompt."""

    metrics: Annotated[
        tuple[AnswerMetric, ...], Field(min_length=1, max_length=6, json_schema_extra=LIST_SET)
    ] = (AnswerMetric.BLEU, AnswerMetric.CHRF, AnswerMetric.ROUGE_L, AnswerMetric.EXACT_MATCH)
    """BLEU and ChrF (by sacrebleu, 0 to 100), RougeL, ExactMatch (equal but for white space at the
    ends), Regex (`regex` is found in the answer), JSONValid (the answer is JSON), all 0 to 1."""
    regex: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_compiles)] | None = (
        None
    )
    """Regular expression of Python that the metric Regex looks for in each answer."""
    max_prompts: Annotated[int, Field(ge=1, le=1000)] = 64
    """Prompts, chosen by content hash, so always the same."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 128
    """Tokens after which an answer is cut off."""
    every_steps: Steps | None = None
    """Optimizer steps between answers. Absent: only the untouched and the final model are asked."""
    scorers: (
        Annotated[
            tuple[Scorer, ...],
            Field(min_length=1, max_length=MAX_SCORERS, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Containers that score the table of answers once training is over, side by side in one CPU
    pod. Each reads the file that `$ANSWERS` names and writes
    `{"tuned": {"metric": 0.9}, "base": {"metric": 0.7}}` to the one that `$SCORES` names. Absent:
    there are none."""
    scorer_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """Seconds that the scorers may take; those that are not done then have failed."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="('Regex' in self.metrics) == has(self.regex)",
            message="regex goes with the metric Regex: set both or neither",
            field_path=".regex",
            check=lambda wish: (AnswerMetric.REGEX in wish.metrics) == (wish.regex is not None),
        ),
    )


class OnOverfitting(StrEnum):
    """What follows from a model that stops getting better on held-out rows."""

    IGNORE = "Ignore"
    WARN = "Warn"
    STOP_KEEP_BEST = "StopKeepBest"


class Overfitting(SpecModel):
    """Held-out loss against loss on training rows, at each evaluation."""

    action: OnOverfitting = OnOverfitting.WARN
    """Warn tells it in condition Overfitting and an Event, with what to try. StopKeepBest also ends
    training, and the result are the weights of the best evaluation, whether or not training was
    ended; each best evaluation saves a checkpoint. Ignore does not look, and saves the time of
    scoring training rows."""
    patience: Annotated[int, Field(ge=1, le=100)] = 3
    """Evaluations in a row without an improvement, after which it counts."""
    min_delta: Annotated[str, DecimalRange(0, 100, example="0.01")] = "0.0"
    """Nats by which the held-out loss has to fall to be an improvement, a decimal string."""
    max_gap: Annotated[str, DecimalRange(0, 100, low_open=True, example="0.5")] | None = None
    """Nats by which the held-out loss may lie above that on training rows, a decimal string.
    Absent: any number."""


class Evaluation(SpecModel):
    """Scores on the held-out rows: loss and perplexity weighted by tokens, and of answers."""

    every_steps: Steps | None = None
    """Optimizer steps between evaluations. Absent: only after the last step."""
    baseline: Baseline = Baseline.MEASURE
    """Measure scores the untouched model before the first step; Skip does not."""
    generation: Generation | None = None
    """Answers to held-out prompts: `generation: {}`. Absent: the model is not asked."""
    human: Human | None = None
    """A blind comparison with the untouched model for people to rate: `human: {}`. Absent: there is
    none."""
    paired_prompts: (
        Annotated[
            tuple[PairedPrompts, ...],
            Field(min_length=1, max_length=MAX_LISTS, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Prompts that differ in one term, by which bias shows. The untouched and the final model are
    asked how likely they find the answers; they are neither trained on nor generated. Absent: there
    are none."""
    overfitting: Overfitting = Overfitting()
    """What follows where the model learns its rows by heart, or nothing any more."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.human) || (has(self.generation)"
            " && has(self.baseline) && self.baseline == 'Measure')",
            message="people compare the answers of the untouched and the tuned model: set "
            "generation, and baseline to Measure",
            field_path=".human",
            check=lambda wish: (
                wish.human is None
                or (wish.generation is not None and wish.baseline is Baseline.MEASURE)
            ),
        ),
        Rule(
            cel="!has(self.overfitting) || self.overfitting.action != 'StopKeepBest'"
            " || has(self.everySteps)",
            message="StopKeepBest compares evaluations: set everySteps",
            field_path=".everySteps",
            check=lambda wish: (
                wish.overfitting.action is not OnOverfitting.STOP_KEEP_BEST
                or wish.every_steps is not None
            ),
        ),
    )
