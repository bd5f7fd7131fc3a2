"""What the trainer read from its losses: whether the model fits, and what to try if not."""

from __future__ import annotations

from ..api.types import ConditionType, FineTuneJobStatus, Reason
from ..reports import LastWords, ProgressReport
from .facts import Facts

_TOLD = (
    Reason.OVERFITTING,
    Reason.NO_IMPROVEMENT,
    Reason.WORSE_THAN_BASE,
    Reason.UNDERFITTING,
)


def fit_condition(
    facts: Facts, report: ProgressReport | LastWords | None
) -> dict[str, tuple[str, str, str]]:
    """Condition Overfitting by the newest report of the present attempt; empty: it stays."""
    if report is None or report.attempt != facts.stage.attempt or report.judgement is None:
        return {}
    finding = report.judgement.finding
    value = "True" if finding == Reason.OVERFITTING.value else "False"
    return {ConditionType.OVERFITTING.value: (value, finding, report.judgement.message)}


def tell_fit(status: FineTuneJobStatus) -> str:
    """What condition Overfitting says, for the end of a sentence, where it is worth one."""
    for condition in status.conditions:
        if condition.type == ConditionType.OVERFITTING and condition.reason in _TOLD:
            return f"; {condition.reason}: {condition.message}"
    return ""
