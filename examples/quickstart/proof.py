"""Did the model learn? The measure that the quickstart's exit code stands on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quickstart.dataset import Question


@dataclass(frozen=True)
class Bar:
    """What a tuned model must reach, relative to its base."""

    loss_ratio: float
    """Held-out loss of the tuned model as a share of the base model's, at most."""
    accuracy_gain: float
    """Key-fact accuracy above the base model's, in percentage points, at least."""


BAR = Bar(loss_ratio=0.8, accuracy_gain=60.0)


@dataclass(frozen=True)
class Proof:
    """Losses are nats per supervised token; accuracies are per cent of the held-out questions."""

    questions: int
    base_loss: float
    tuned_loss: float
    base_accuracy: float
    tuned_accuracy: float
    bar: Bar

    @property
    def loss_holds(self) -> bool:
        return self.tuned_loss <= self.bar.loss_ratio * self.base_loss

    @property
    def accuracy_holds(self) -> bool:
        return self.tuned_accuracy >= self.base_accuracy + self.bar.accuracy_gain

    @property
    def holds(self) -> bool:
        return self.loss_holds and self.accuracy_holds


def is_right(question: Question, answer: str) -> bool:
    """Whether the answer contains the key fact: as a whole word, whatever the case."""
    return contains_key(question.key, answer)


def contains_key(key: str, text: str) -> bool:
    """Whole-word search after both sides lost case and surplus spaces.

    A key's edge counts as a word boundary only where it is a letter or digit: ``-p0`` is found in
    ``support-bot-p0``, but ``64`` not in ``640``.
    """
    wanted, hay = _normalised(key), _normalised(text)
    start = r"(?<!\w)" if wanted[0].isalnum() else ""
    end = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(start + re.escape(wanted) + end, hay) is not None


def accuracy(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """Per cent of the questions answered right. Both lists have the same length and order."""
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, but {len(answers)} answers")
    right = sum(is_right(q, a) for q, a in zip(questions, answers, strict=True))
    return 100.0 * right / len(questions)


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
