"""What the trainer read from its losses: whether the model fits, and what to try if not."""

from __future__ import annotations

from ..api.types import ConditionType, FineTuneJobStatus, Metrics, Reason
from ..reports import LastWords, ProgressReport
from .facts import Facts

HARMFUL = (Reason.OVERFITTING, Reason.DIVERGED, Reason.WORSE_THAN_BASE)
"""Findings of training that makes the model worse: it goes on, and somebody should know."""
_TOLD = (*HARMFUL, Reason.NO_IMPROVEMENT, Reason.UNDERFITTING)


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


def worse_than_base(metrics: Metrics | None) -> str | None:
    """A sentence, where held-out rows say that the final model is worse than it was before."""
    base = metrics.baseline if metrics else None
    if metrics is None or base is None or metrics.eval_loss is None or base.eval_loss is None:
        return None
    if float(metrics.eval_loss) <= float(base.eval_loss):
        return None
    return (
        f"the result is worse than the untouched model on held-out rows (evalLoss "
        f"{metrics.eval_loss}, before training {base.eval_loss})"
    )
