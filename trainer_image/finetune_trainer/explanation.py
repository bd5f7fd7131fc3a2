"""What a failure means: its known signature, with cause and hint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_trainer.failures import BY_NAME, FailureClass
from finetune_trainer.signatures.signature import UNFORESEEN, Signature, find
from finetune_trainer.signatures.table import SIGNATURES


def explain(failure: dict[str, Any], *said: Sequence[str]) -> None:
    """Add signature, cause and hint to a ``failure`` record, where one is recognised.

    ``said`` are texts in the order of trust: the first that shows a signature counts. A hint that
    is there already stays: who raised the error knew more. A failure that nobody foresaw takes the
    class of its signature; the exit code is what it was.
    """
    own = str(failure.get("class"))
    for lines in said:
        if known := find(SIGNATURES, lines, own):
            failure |= {"signature": known.name, "cause": known.cause}
            failure.setdefault("hint", known.hint)
            if own == UNFORESEEN:
                failure["class"] = known.failure_class
            return


def known_failure(error: BaseException) -> Signature | None:
    """The signature that the error's own text shows."""
    return find(SIGNATURES, f"{type(error).__name__}: {error}".splitlines())


def class_of_unforeseen(error: BaseException) -> FailureClass:
    """The class of an error that nobody in the trainer raised on purpose."""
    known = known_failure(error)
    return BY_NAME[known.failure_class if known else UNFORESEEN]
