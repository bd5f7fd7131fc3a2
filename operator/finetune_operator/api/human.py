"""What people think of the answers: the wish, the bound, and what came of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import Decimal, DecimalRange, ObjectName, SpecModel, StatusModel, Timestamp

MAX_RATERS = 64
MAX_ITEMS = 1000
"""As many as `spec.evaluation.generation.maxPrompts` may be."""
Count = Annotated[int, Field(ge=0)]


class Human(SpecModel):
    """Export writes the answers of the untouched and the tuned model as a blind comparison; people
    rate it on a page, and their files come back in a ConfigMap."""

    config_map: ObjectName | None = None
    """Name of the ConfigMap in the job's namespace with the files of ratings, one key for each
    rater. Absent: the job's name and `-ratings`."""


class HumanGate(SpecModel):
    """The model waits unpublished, without a pod, until enough ratings are there."""

    min_win_rate: Annotated[str, DecimalRange(0, 1, example="0.6")]
    """Lowest share of the ratings that the tuned model has to win, a decimal string; a tie, and
    both bad, count as half a win."""
    min_ratings: Annotated[int, Field(ge=1, le=MAX_ITEMS * MAX_RATERS)] = 20
    """Ratings, of all raters together, before which nothing is decided."""
    min_raters: Annotated[int, Field(ge=1, le=MAX_RATERS)] = 1
    """Raters before whose ratings nothing is decided."""


class HumanEvaluation(StatusModel):
    """The blind comparison, and what the ratings say."""

    uri: str | None = None
    """Folder with the page for raters (`rate.html`) and its items (`bundle.jsonl`): pvc://claim/path."""
    bundle: Annotated[str | None, Field(max_length=128)] = None
    """Digest of `bundle.jsonl`, which ratings have to name: sha256:…"""
    items: Count | None = None
    """Prompts to rate: those that both models answer differently."""
    same: Count | None = None
    """Prompts that both models answer with the same words; they are not rated."""
    config_map: str | None = None
    """ConfigMap that the ratings are read from."""
    ratings: Count | None = None
    """Ratings that count."""
    raters: Count | None = None
    """People who gave them."""
    wins: Count | None = None
    """Ratings by which the tuned model's answer is better."""
    losses: Count | None = None
    """Ratings by which the untouched model's answer is better."""
    ties: Count | None = None
    """Ratings by which both are equally good."""
    both_bad: Count | None = None
    """Ratings by which both are bad."""
    win_rate: Decimal | None = None
    """(wins + half of ties and bothBad) / ratings."""
    agreement: Decimal | None = None
    """Krippendorff's alpha (nominal) of the raters: 1 for full agreement, 0 for that of chance.
    Absent: no item was rated twice, or all ratings are the same."""
    problem: Annotated[str | None, Field(max_length=1024)] = None
    """Why ratings that are there do not count."""
    accepted_time: Timestamp | None = None
    """When `spec.gate.human` was passed; ratings that come later change nothing."""

    @property
    def finding(self) -> str:
        """The win rate with all that belongs to it, as a sentence without its end."""
        raters = "rater" if self.raters == 1 else "raters"
        agreement = f", agreement {self.agreement}" if self.agreement else ""
        return (
            f"the win rate is {self.win_rate} by {self.ratings} ratings of {self.raters} {raters} "
            f"({self.wins} better, {self.losses} worse, {self.ties} ties, {self.both_bad} both bad"
            f"{agreement})"
        )
