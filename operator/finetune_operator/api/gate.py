"""What a model has to reach before it is published."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .human import HumanGate
from .schema import DecimalRange, Rule, SpecModel, list_map
from .scoring import ScorerBound

ON_TOKENS = ("EvalLoss", "Perplexity", "TokenAccuracy")
"""Metrics that need no answers."""
LOWER_IS_BETTER = ("EvalLoss", "Perplexity")
_LOWER = "self.metric in ['EvalLoss', 'Perplexity']"


class GateMetric(StrEnum):
    """A score of the final model on the held-out rows."""

    EVAL_LOSS = "EvalLoss"
    PERPLEXITY = "Perplexity"
    TOKEN_ACCURACY = "TokenAccuracy"  # noqa: S105  (no password)
    BLEU = "BLEU"
    CHRF = "ChrF"
    ROUGE_L = "RougeL"
    EXACT_MATCH = "ExactMatch"
    REGEX = "Regex"
    JSON_VALID = "JSONValid"


class GateScore(SpecModel):
    """A bound of one metric, or an improvement over the untouched model, or both."""

    metric: GateMetric
    """EvalLoss, Perplexity, TokenAccuracy, or one of `spec.evaluation.generation.metrics`."""
    at_least: Annotated[str, DecimalRange(0, 100, example="0.8")] | None = None
    """Lowest score that passes, a decimal string on the metric's own scale."""
    at_most: Annotated[str, DecimalRange(0, 1_000_000, example="1.2")] | None = None
    """Highest EvalLoss or Perplexity that passes, a decimal string."""
    min_improvement: Annotated[str, DecimalRange(0, 1_000_000, example="0.05")] | None = None
    """By how much the untouched model has to be surpassed, a decimal string; "0": not at all, but
    it must not be better."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.atLeast) || has(self.atMost) || has(self.minImprovement)",
            message="a score without a bound lets everything pass: set atLeast, atMost or "
            "minImprovement",
            check=lambda score: (
                (score.at_least, score.at_most, score.min_improvement) != (None, None, None)
            ),
        ),
        Rule(
            cel=f"!has(self.atLeast) || !({_LOWER})",
            message="EvalLoss and Perplexity are better when they are lower: use atMost",
            field_path=".atLeast",
            check=lambda score: score.at_least is None or score.metric not in LOWER_IS_BETTER,
        ),
        Rule(
            cel=f"!has(self.atMost) || {_LOWER}",
            message="atMost goes with EvalLoss and Perplexity: use atLeast",
            field_path=".atMost",
            check=lambda score: score.at_most is None or score.metric in LOWER_IS_BETTER,
        ),
    )


class Forgetting(SpecModel):
    """How much of what the model could do before may be lost."""

    max_loss_increase: Annotated[str, DecimalRange(0, 100, example="0.1")]
    """Nats per token by which the loss on the rows of `spec.data.general` may lie above that of the
    untouched model, a decimal string; "0": not at all."""


class Gate(SpecModel):
    """The model is published only if all of this holds."""

    scores: (
        Annotated[
            tuple[GateScore, ...],
            Field(min_length=1, max_length=9, json_schema_extra=list_map("metric")),
        ]
        | None
    ) = None
    """Bounds of scores on the held-out rows, one for each metric. They are looked at first: nobody
    rates a model that they hold back."""
    scorers: (
        Annotated[
            tuple[ScorerBound, ...],
            Field(
                min_length=1,
                max_length=16,
                json_schema_extra={
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name", "metric"],
                },
            ),
        ]
        | None
    ) = None
    """Bounds of numbers of `spec.evaluation.generation.scorers`, looked at together with the
    scores. A scorer that failed passes nothing."""
    forgetting: Forgetting | None = None
    """What may be lost on the rows of `spec.data.general`; looked at together with the scores."""
    human: HumanGate | None = None
    """What people have to think of the answers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.scores) || has(self.scorers) || has(self.forgetting) || has(self.human)",
            message="a gate without a bound lets everything pass: set scores, scorers, forgetting "
            "or human, or remove the gate",
            check=lambda gate: any(
                part is not None
                for part in (gate.scores, gate.scorers, gate.forgetting, gate.human)
            ),
        ),
    )
