"""Facts → Verdict → status: the rules in their order, and how a verdict becomes a status.

The first rule with an opinion decides. Each is a pure function named by the fact that makes it
fire; reason and message stand in the rule, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .api.types import Condition, ConditionType, FineTuneJobStatus, Phase, Reason, StageName
from .engine.dropped import kept
from .policies.attempts import (
    between_attempts,
    creation_refused,
    job_missing,
    leftovers_alive,
    not_begun,
    pods_not_ready,
    previous_incarnation_alive,
    running,
    start_timeout,
)
from .policies.deadline import deadline_exceeded, seconds_left
from .policies.elastic import seconds_until_more
from .policies.evicted import evicted
from .policies.facts import FOR_PEOPLE, Action, Facts, State, Verb, Verdict
from .policies.goodput import account
from .policies.gpu_budget import budget_exceeded, budget_unreadable, seconds_until_spent
from .policies.human import awaiting_ratings
from .policies.nodes import node_lost, node_unreachable
from .policies.out_of_reach import lost_nodes
from .policies.outcome import job_failed, job_failing, job_vanished, stage_completed
from .policies.outdated import with_lost_fields
from .policies.preflight import memory_short, preflight
from .policies.resize import growing, too_little_room
from .policies.rights import with_missing_right
from .policies.scoring import scored, scorers_ended
from .policies.secrets import without_secrets
from .policies.suspend import resumed, suspended
from .policies.telling import event_of, with_event
from .policies.ttl import finished
from .policies.validity import obstructed, spec_invalid

Rule = Callable[[Facts], Verdict | None]

RULES: tuple[Rule, ...] = (
    finished,  # the end is absorbing
    spec_invalid,  # no pod is ever started for a wish that cannot work
    scorers_ended,  # well or not, the model goes on to its gate
    stage_completed,  # what is done counts, even if it was to be stopped
    job_failed,  # an attempt that ended must be judged before anything else ends it
    job_failing,
    deadline_exceeded,
    suspended,
    budget_exceeded,
    resumed,
    growing,  # there was too little room, long ago
    evicted,  # a queue takes the gang's quota back
    between_attempts,  # given back, or failed and worth another try: pods go, time passes
    node_lost,  # the Job would never say so
    job_vanished,
    leftovers_alive,  # from here on: nothing may be created beside living pods
    previous_incarnation_alive,
    awaiting_ratings,  # people decide what is next; nothing else is missing meanwhile
    obstructed,  # claims and sources that are not there
    budget_unreadable,
    not_begun,
    memory_short,
    creation_refused,
    job_missing,  # everything is in place: create
    node_unreachable,  # it may come back
    too_little_room,
    start_timeout,
    pods_not_ready,
    running,  # nothing is wrong
)

GATE_FAILED = "GateFailed"
"""Failure class of an export that its gate held back."""
JUDGED_BY_PREPARE = ("BadData", "ModelLoad", "ConfigInvalid")
"""Failure classes that are about what was to be prepared, not about how that went."""
MAX_CONDITION_MESSAGE = 2048
MAX_PENDING_REASON = 1024


@dataclass(frozen=True)
class Decision:
    """What a pass does."""

    status: Mapping[str, Any]
    """The whole status, as it is to be stored."""
    actions: tuple[Action, ...] = ()
    """To be carried out once that status is stored."""
    event: Mapping[str, Any] | None = None
    """To be posted after that status was written."""
    again_after: float | None = None
    irrevocable: bool = False
    """Creates, deletes, restarts or ends: must be decided on what the API server says now."""


def judge(facts: Facts) -> Verdict:
    """The first rule's opinion; the last rule always has one."""
    return next(verdict for rule in RULES if (verdict := rule(facts)) is not None)


def decide(facts: Facts) -> Decision:
    """One decision from (job, plan, observed); pure."""
    if facts.job.deleting:  # the garbage collector removes the children
        return Decision(status=facts.job.status)
    verdict = without_secrets(judge(facts))
    verdict = with_missing_right(facts, with_lost_fields(facts, verdict))
    status = compose(facts, verdict)
    wire = kept(status.wire(), facts.dropped)
    changed = wire != facts.job.status
    event = event_of(facts, verdict) if changed else None
    if changed:
        along = {
            "goodput": account(facts, status, verdict.reason),
            "events": with_event(facts, event),
        }
        aside = {**verdict.aside, **along}
        wire = kept(status.model_copy(update=aside).wire(), facts.dropped)
    ends = verdict.state.terminal and facts.status.completion_time is None
    growth = seconds_until_more(facts)
    times = (
        verdict.again_after,
        _deadline(facts, verdict),
        seconds_until_spent(facts),
        growth if growth is not None and growth > 0 else None,
    )
    return Decision(
        status=wire if changed else facts.job.status,
        actions=verdict.actions,
        event=event,
        again_after=min((seconds for seconds in times if seconds is not None), default=None),
        irrevocable=ends
        or verdict.final
        or any(action.verb is not Verb.ENSURE for action in verdict.actions),
    )


def compose(facts: Facts, verdict: Verdict) -> FineTuneJobStatus:
    """The stored status, changed to what the verdict says."""
    pending = verdict.pending_reason
    changes = dict(verdict.changes)
    progress = changes.get("progress", facts.status.progress)
    if progress is not None and verdict.phase is not Phase.TRAINING:
        changes["progress"] = progress.model_copy(update={"eta_seconds": None})
    status = facts.status.model_copy(
        update={
            **changes,
            "observed_generation": facts.job.generation,
            "phase": verdict.phase,
            "pending_reason": pending[:MAX_PENDING_REASON] if pending else None,
            "lost_nodes": lost_nodes(facts),
        }
    )
    told = {condition.type: condition for condition in facts.status.conditions}
    conditions = tuple(
        _transition(told.get(name), name, *what, facts)
        for name, what in _conditions(facts, verdict, status).items()
    )
    return status.model_copy(update={"conditions": conditions})


def _conditions(
    facts: Facts, verdict: Verdict, status: FineTuneJobStatus
) -> dict[str, tuple[str, str, str]]:
    reason, message = str(verdict.reason), verdict.message[:MAX_CONDITION_MESSAGE]
    reconciling, stalled, succeeded, failed = verdict.state.value[:4]
    asleep = verdict.state is State.SUSPENDED
    ended = verdict.state is State.FAILED
    pending = ("Unknown", Reason.PENDING.value, "")
    lost = ("False", reason, message) if ended else pending
    wrong = _wrong(facts, verdict) or _remarks(facts)
    gang = ("False", Reason.PENDING.value, "")
    if status.trained is not None:
        gang = ("False", Reason.TRAINED.value, "training is over and its pods are gone")
    elif facts.stage.name is StageName.TRAIN and not verdict.state.terminal:
        gang = _kept(facts, ConditionType.GANG_READY) or gang
        if any(action.verb is Verb.DELETE for action in verdict.actions):
            gang = ("False", Reason.DRAINING.value, "its pods are asked to save and to go")
    return {
        ConditionType.RECONCILING.value: (reconciling, reason, message),
        ConditionType.STALLED.value: _unless("False", stalled, Reason.ACTIVE, reason, message),
        ConditionType.SUCCEEDED.value: (succeeded, reason, message),
        ConditionType.FAILED.value: _unless("False", failed, Reason.NOT_FAILED, reason, message),
        ConditionType.SUSPENDED.value: (
            ("True", reason, message) if asleep else ("False", Reason.ACTIVE.value, "")
        ),
        ConditionType.SPEC_VALID.value: (
            ("False", *wrong)
            if wrong
            else ("True", Reason.ACCEPTED.value, "the spec can be carried out")
        ),
        ConditionType.DATASET_VALID.value: _dataset(verdict, status),
        ConditionType.PREFLIGHT_PASSED.value: preflight(status),
        ConditionType.GANG_READY.value: gang,
        ConditionType.OVERFITTING.value: _kept(facts, ConditionType.OVERFITTING) or pending,
        ConditionType.SCORED.value: scored(facts, status),
        ConditionType.GATE_PASSED.value: _gate(facts, verdict),
        ConditionType.PUBLISHED.value: _published(facts) if status.exported else lost,
        **verdict.conditions,
    }


def _dataset(verdict: Verdict, status: FineTuneJobStatus) -> tuple[str, str, str]:
    """False only where prepare has looked at model and data and found fault with them."""
    if status.prepared:
        return _prepared(status)
    if verdict.state is not State.FAILED:
        return "Unknown", Reason.PENDING.value, ""
    failure = status.failure
    found = (
        failure is not None
        and failure.stage is StageName.PREPARE
        and failure.failure_class in JUDGED_BY_PREPARE
    )
    message = verdict.message[:MAX_CONDITION_MESSAGE]
    return "False" if found else "Unknown", str(verdict.reason), message


def _prepared(status: FineTuneJobStatus) -> tuple[str, str, str]:
    message = "model and data are prepared"
    if status.data and (other := status.data.prepared_by):
        message += f"; the data is that of FineTuneJob {other}: same model, rows and settings"
    if status.data and (warnings := status.data.warnings):
        more = f" (and {len(warnings) - 1} more in status.data.warnings)" if warnings[1:] else ""
        message += f"; worth a look: {warnings[0]}{more}"
    return "True", Reason.PREPARED.value, message[:MAX_CONDITION_MESSAGE]


def _wrong(facts: Facts, verdict: Verdict) -> tuple[str, str] | None:
    """Why the spec cannot be carried out: it contradicts itself, or what it names cannot do."""
    if facts.faults or (facts.obstacle and facts.obstacle.final and verdict.state is State.FAILED):
        return str(verdict.reason), verdict.message[:MAX_CONDITION_MESSAGE]
    known = _kept(facts, ConditionType.SPEC_VALID)
    if facts.status.completion_time and known and known[0] == "False":
        return known[1], known[2]  # nobody looks around after the end
    return None


def _remarks(facts: Facts) -> tuple[str, str] | None:
    """What of the spec is not followed although the job goes on; what was changed can be mended."""
    remarks = facts.plan.remarks if facts.plan else ()
    if not remarks:
        return None
    return remarks[0].reason, "; ".join(map(str, remarks))[:MAX_CONDITION_MESSAGE]


def _gate(facts: Facts, verdict: Verdict) -> tuple[str, str, str]:
    known = _kept(facts, ConditionType.GATE_PASSED)
    if facts.plan is not None and facts.spec.gate is None:
        return "Unknown", Reason.NO_GATE.value, ""
    if verdict.state is State.FAILED and verdict.reason == GATE_FAILED:
        return "False", GATE_FAILED, verdict.message[:MAX_CONDITION_MESSAGE]
    if verdict.state is State.FAILED and known and known[1] in FOR_PEOPLE:
        known = None  # nobody waits any longer
    return known or ("Unknown", Reason.PENDING.value, "")


def _published(facts: Facts) -> tuple[str, str, str]:
    """What export told of its checks stays; without its words, what every export does."""
    known = _kept(facts, ConditionType.PUBLISHED)
    if known and known[0] == "True":
        return known
    return "True", Reason.PUBLISHED.value, "the result was loaded again and compared"


def _unless(
    calm: str, value: str, calm_reason: Reason, reason: str, message: str
) -> tuple[str, str, str]:
    return (value, calm_reason.value, "") if value == calm else (value, reason, message)


def _kept(facts: Facts, name: ConditionType) -> tuple[str, str, str] | None:
    for condition in facts.status.conditions:
        if condition.type == name:
            return condition.status, condition.reason, condition.message
    return None


def _transition(
    known: Condition | None, name: str, value: str, reason: str, message: str, facts: Facts
) -> Condition:
    said = value, reason, message, facts.job.generation
    if known and said == (known.status, known.reason, known.message, known.observed_generation):
        return known
    moved = known is None or known.status != value
    return Condition(
        type=name,
        status=value,  # type: ignore[arg-type]
        observed_generation=facts.job.generation,
        last_transition_time=facts.now if moved or known is None else known.last_transition_time,
        reason=reason,
        message=message,
    )


def _deadline(facts: Facts, verdict: Verdict) -> float | None:
    if verdict.state.terminal or verdict.state is State.SUSPENDED:
        return None
    left = seconds_left(facts)
    return None if left is None else max(left, 0.0) + 0.5
