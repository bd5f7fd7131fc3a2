"""GPU-hours of a job and of its namespace: once they are used up, training saves and waits.

The job is held as a suspended one is, and not ended: its checkpoints are of use to no other job,
and whoever raises the limit wants to go on from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..api.budget import MAX_GPU_HOURS
from ..api.schema import DECIMAL
from ..api.types import Phase, Reason, StageName
from .attempts import NOT_READY
from .ending import POLL_SECONDS, delete_jobs
from .facts import RUNNING_PHASES, WAITING_PHASES, Facts, State, Verdict, record_job
from .gpu_time import gpu_seconds_since

CONFIG_MAP = "finetune-budget"
"""Holds the budget of its namespace."""
KEY = "gpuHours"
NAMESPACE_SECONDS = 30.0
"""So often is the budget of the namespace looked at, which others use too."""


@dataclass(frozen=True)
class Limit:
    """A budget that counts for a job."""

    left: float
    """GPU-seconds that are not used yet."""
    what: str
    """Where it stands and how much it is."""
    remedy: str


def budget_exceeded(facts: Facts) -> Verdict | None:
    """A budget is used up: end the gang's Job, so that it saves, and hold the job."""
    spent = next((limit for limit in _limits(facts) if limit.left <= 0), None)
    if spent is None:
        return None
    if facts.live_jobs or facts.live_pods:
        return Verdict(
            phase=facts.status.phase or RUNNING_PHASES[facts.stage.name],
            state=State.MOVING,
            reason=Reason.BUDGET_EXCEEDED,
            message=f"{spent.what} are used up: saving a checkpoint and giving the pods back",
            changes=record_job(facts),
            actions=delete_jobs(facts.live_jobs),
            again_after=POLL_SECONDS,
            quiet=True,
        )
    used = _hours(used_gpu_seconds(facts))
    message = (
        f"{spent.what} are used up ({used} by this job): it waits, and goes on from its newest "
        f"checkpoint once you {spent.remedy}"
    )
    return Verdict(
        phase=Phase.SUSPENDED,
        state=State.STUCK,
        reason=Reason.BUDGET_EXCEEDED,
        message=message,
        pending_reason=message,
        changes={**record_job(facts), "suspend_time": facts.status.suspend_time or facts.now},
        conditions=NOT_READY,
        again_after=NAMESPACE_SECONDS,
    )


def budget_unreadable(facts: Facts) -> Verdict | None:
    """The namespace's budget is no number: a gang that runs goes on, none is started."""
    shared, stage = facts.namespace_budget, facts.stage
    if shared is None or shared.hours is not None or stage.job is not None:
        return None
    message = (
        f"ConfigMap {CONFIG_MAP}, key {KEY}: this is no number of hours: write one such as "
        f'"100", or remove the ConfigMap'
    )
    return Verdict(
        phase=WAITING_PHASES[stage.name],
        state=State.STUCK,
        reason=Reason.BUDGET_INVALID,
        message=message,
        pending_reason=message,
        again_after=NAMESPACE_SECONDS,
    )


def seconds_until_spent(facts: Facts) -> float | None:
    """Seconds after which a budget may be used up; None: there is none, or nothing uses it."""
    rate = _rate(facts)
    if rate == 0 or not facts.live_pods:
        return None
    left = [max(0.0, limit.left / rate) + 0.5 for limit in _limits(facts)]
    shared = [NAMESPACE_SECONDS] if facts.namespace_budget else []
    return min([*left, *shared], default=None)


def used_gpu_seconds(facts: Facts) -> int:
    """What the job has used until now."""
    known = facts.status.goodput
    return known.gpu_seconds + gpu_seconds_since(facts, known, facts.now) if known else 0


def read_hours(text: str) -> float | None:
    """Hours as the namespace's ConfigMap holds them; None: that is no number of hours."""
    hours = float(text) if re.fullmatch(DECIMAL, text.strip()) else -1.0
    return hours if 0 <= hours <= MAX_GPU_HOURS else None


def _limits(facts: Facts) -> Iterator[Limit]:
    """The budgets that count for the job at its present stage: only training holds GPUs."""
    if facts.plan is None or _rate(facts) == 0:
        return
    used, own = used_gpu_seconds(facts), facts.spec.budget.gpu_hours
    if own is not None:
        what = f"spec.budget.gpuHours: the {own} GPU-hours of this job"
        yield Limit(float(own) * 3600 - used, what, "raise spec.budget.gpuHours")
    shared = facts.namespace_budget
    if shared is not None and shared.hours is not None:
        what = (
            f"ConfigMap {CONFIG_MAP}: the {shared.hours:g} GPU-hours of namespace "
            f"{facts.key.namespace}"
        )
        left = shared.hours * 3600 - shared.used_by_others - used
        yield Limit(left, what, f"raise {KEY} in it")


def _rate(facts: Facts) -> int:
    """GPUs that the gang holds."""
    if facts.plan is None or facts.stage.name is not StageName.TRAIN:
        return 0
    return facts.plan.pods(StageName.TRAIN) * facts.spec.workers.gpus_per_worker


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:.4g}"
