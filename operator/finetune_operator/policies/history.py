"""What the job remembers of attempts that ended, and what their ends cost."""

from __future__ import annotations

from typing import Any, Literal

from ..api.failures import Budget
from ..api.redaction import redact
from ..api.types import Failure, FineTuneJobStatus, PastFailure, Restarts, ResumedFrom, StageName
from ..reports import ResumedReport
from .facts import Facts

MAX_PAST_FAILURES = 10
OF_A_NODE = ("HardwareFault", "Hang")
"""Failure classes that the same node may bring about again."""
_PAID: dict[Budget, Literal["Program", "Infrastructure"] | None] = {
    Budget.PROGRAM: "Program",
    Budget.INFRASTRUCTURE: "Infrastructure",
    Budget.NONE: None,
}


def resumption_changes(facts: Facts, report: ResumedReport | None) -> dict[str, Any]:
    """Where the present attempt began, and so what the attempts before it lost. Told once."""
    status, attempt = facts.status, facts.stage.attempt
    training = facts.stage.name is StageName.TRAIN
    if not training or not attempt or report is None or status.resumed_from is not None:
        return {}
    damaged = tuple(redact(fault)[:1024] for fault in report.damaged) or None
    began = ResumedFrom(attempt=report.attempt, step=report.step, damaged=damaged)
    changes: dict[str, Any] = {"resumed_from": began}
    known = status.past_failures or ()
    priced = tuple(_priced(past, attempt, report.step) for past in known)
    if priced != known:
        lost = sum(past.steps_redone or 0 for past in priced)
        before = sum(past.steps_redone or 0 for past in known)
        restarts = status.restarts or Restarts()
        redone = (restarts.steps_redone or 0) + lost - before
        changes["restarts"] = restarts.model_copy(update={"steps_redone": redone})
        changes["past_failures"] = priced
    return changes


def tell_start(status: FineTuneJobStatus) -> str:
    """Where the present attempt went on, and what the restarts cost so far, for a sentence."""
    began, restarts = status.resumed_from, status.restarts
    if began is None:
        return ""
    where = f"; attempt {status.attempt} went on from step {began.step}"
    if began.damaged:
        where += f", because newer checkpoints are damaged ({'; '.join(began.damaged)})"
    if restarts is None:
        return where
    kinds = (restarts.program, restarts.infrastructure, restarts.memory, restarts.roll_backs)
    count = sum(n or 0 for n in kinds)
    times, steps = _counted(count, "restart"), _counted(restarts.steps_redone or 0, "step")
    return f"{where}; {times} so far, {steps} trained again"


def suspect_nodes(status: FineTuneJobStatus) -> tuple[str, ...]:
    """Nodes on which training failed in a way that may be theirs, as far as it is remembered."""
    ends = (past for past in status.past_failures or () if past.stage is StageName.TRAIN)
    return tuple(dict.fromkeys(e.node for e in ends if e.node and e.failure_class in OF_A_NODE))


def left_out(status: FineTuneJobStatus) -> bool:
    """Whether training left steps out for their numbers, in whichever attempt."""
    skipped = (status.progress and status.progress.skipped) or {}
    return any(skipped.get(name) for name in ("nonfinite", "lossSpike"))


def tell_skipped(status: FineTuneJobStatus) -> str:
    """Which steps changed no weight because of their numbers, and spikes, for a sentence."""
    progress = status.progress
    if progress is None:
        return ""
    skipped = progress.skipped or {}
    parts = [f"{skipped[name]} {words}" for name, words in _SKIPPED.items() if skipped.get(name)]
    count = sum(skipped.get(name, 0) for name in _SKIPPED)
    last = progress.last_bad_step
    at = f", the last for its numbers is step {last}" if last else ""
    told = f"; {_counted(count, 'step')} left out ({', '.join(parts)}){at}" if count else ""
    applied = (progress.loss_spikes or 0) - skipped.get("lossSpike", 0)
    return told + (f"; {_counted(applied, 'loss spike')} trained on" if applied > 0 else "")


_SKIPPED = {
    "nonfinite": "not finite",
    "lossSpike": "with a loss spike",
    "passedOver": "passed over after going back",
}


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def spend(
    status: FineTuneJobStatus, failure: Failure, budget: Budget, *, rolled_back: bool = False
) -> dict[str, Any]:
    """The restart counted and its failure remembered: both stand in the status, or neither.

    ``Budget.NONE``: nobody pays, the next attempt rolls back or uses less memory.
    """
    restarts = status.restarts or Restarts()
    program, infrastructure = restarts.program or 0, restarts.infrastructure or 0
    counted = {
        "program": program + (budget is Budget.PROGRAM),
        "infrastructure": infrastructure + (budget is Budget.INFRASTRUCTURE),
    }
    if budget is Budget.NONE:
        kind = "roll_backs" if rolled_back else "memory"
        counted[kind] = (getattr(restarts, kind) or 0) + 1
    past = PastFailure(
        failure_class=failure.failure_class,
        stage=failure.stage,
        attempt=failure.attempt,
        step=failure.step,
        node=failure.node,
        at=failure.at,
        budget=_PAID[budget],
    )
    return {
        "restarts": restarts.model_copy(update=counted),
        "past_failures": (*(status.past_failures or ()), past)[-MAX_PAST_FAILURES:],
    }


def failures_in_a_row(status: FineTuneJobStatus, failure: Failure) -> int:
    """How many failures came before this one since the stage last got further than ever."""
    count, farthest = 0, (failure.stage, -2)
    ends: tuple[Failure | PastFailure, ...] = (*(status.past_failures or ()), failure)
    for each in ends:
        # A failure before the first report is one before the first step.
        stage, step = each.stage, -1 if each.step is None else each.step
        if stage is not farthest[0] or step > farthest[1]:
            count, farthest = 0, (stage, step)
        else:
            count += 1
    return count


def _priced(past: PastFailure, attempt: int, step: int) -> PastFailure:
    ended = past.stage is StageName.TRAIN and past.attempt is not None and past.attempt < attempt
    if not ended or past.steps_redone is not None:
        return past
    lost = 0 if past.step is None else max(0, past.step - step)
    return past.model_copy(update={"steps_redone": lost})
