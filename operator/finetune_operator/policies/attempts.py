"""The life of an attempt: written ahead, created, waiting, running."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..api.types import ConditionType, Logs, Phase, Reason, Reused, StageName
from ..objects.claim import build_claim
from ..objects.export_job import build_export_job
from ..objects.headless_service import build_headless_service
from ..objects.prepare_job import build_prepare_job
from ..objects.run_config_map import build_run_config_map
from ..objects.score_job import build_score_job
from ..objects.train_job import build_train_job
from ..plan import in_use
from .elastic import seconds_until_fewer, tell_size
from .ending import POLL_SECONDS, delete_jobs, name_pods
from .facts import (
    RUNNING_PHASES,
    WAITING_PHASES,
    Action,
    Facts,
    State,
    Verb,
    Verdict,
    backoff,
    new_attempt,
    record_job,
)
from .fit import HARMFUL, fit_condition
from .history import left_out, suspect_nodes, tell_skipped, tell_start
from .numbers import progress_changes
from .out_of_reach import silent_pods, tell_silent
from .pending import explain

REFUSED_SECONDS = 20.0
SCORING = "the scorers of spec.evaluation.generation read the answers"
NOT_READY = {ConditionType.GANG_READY.value: ("False", "WaitingForPods", "")}


def between_attempts(facts: Facts) -> Verdict | None:
    """An attempt is over, or was given back: its pods go, time passes, the next is written."""
    due, stage = facts.status.next_attempt_time, facts.stage
    if due is None or stage.attempt is None:
        return None
    stored = _as_stored(facts)
    if facts.live_jobs or facts.live_pods:
        return _again(stored, POLL_SECONDS, delete_jobs(facts.live_jobs))
    if (left := -facts.seconds_since(due)) > 0:
        return _again(stored, left, ())
    used = stage.job is not None or stage.job_uid is not None
    number = stage.attempt + 1 if used else stage.attempt
    return waiting(facts, stage.name, changes=write_ahead(facts, stage.name, number))


def leftovers_alive(facts: Facts) -> Verdict | None:
    """Own pods of another attempt still run: two gangs must never overlap."""
    if facts.stage.job is not None:
        return None
    if facts.live_jobs or facts.live_pods:
        return gone_soon(facts, Reason.DRAINING, "waiting for the pods of an earlier attempt")
    return None


def previous_incarnation_alive(facts: Facts) -> Verdict | None:
    """A FineTuneJob of this name was deleted and its children are not gone: never adopt them."""
    if facts.stage.job is not None:
        return None
    uid = facts.job.uid
    jobs = [f"Job {job.name}" for job in facts.observed.jobs if job.owner_uid not in ("", uid)]
    pods = [
        pod
        for pod in facts.observed.pods
        if pod.owner_uid not in ("", uid) and not pod.finished and not facts.is_lost(pod)
    ]
    if not jobs and not pods:
        return None
    names = ", ".join([*jobs[:3], *([name_pods(pods)] if pods else [])])
    message = f"an earlier FineTuneJob of this name is not gone yet: waiting for {names}"
    return Verdict(
        phase=WAITING_PHASES[facts.stage.name],
        state=State.MOVING,
        reason=Reason.PREVIOUS_JOB_TERMINATING,
        message=message,
        pending_reason=message,
        again_after=POLL_SECONDS,
    )


def not_begun(facts: Facts) -> Verdict | None:
    """A new job: accept it, and write its first attempt ahead."""
    if facts.stage.attempt is not None:
        return None
    return waiting(
        facts,
        facts.stage.name,
        changes={
            **write_ahead(facts, facts.stage.name, 0),
            "start_time": facts.status.start_time or facts.now,
        },
    )


def creation_refused(facts: Facts) -> Verdict | None:
    """The API server said no to a child; the same is tried again, slowly."""
    refusal = facts.refusal
    if refusal is None or facts.stage.job is not None:
        return None
    return Verdict(
        phase=WAITING_PHASES[facts.stage.name],
        state=State.STUCK if refusal.stalled else State.MOVING,
        reason=refusal.reason,
        message=refusal.message,
        pending_reason=refusal.message,
        actions=creations(facts),
        again_after=REFUSED_SECONDS,
    )


def job_missing(facts: Facts) -> Verdict | None:
    """The attempt is written ahead and nothing stands in its way: create its Job."""
    if facts.stage.job is not None:
        return None
    return waiting(facts, facts.stage.name, actions=creations(facts))


def start_timeout(facts: Facts) -> Verdict | None:
    """The gang is not whole in time: give its pods back, or half-placed gangs block each other."""
    stage, limit = facts.stage, facts.spec.start_deadline_seconds
    if stage.job is None or stage.name is not StageName.TRAIN or gang_ready(facts):
        return None
    if stage.job.suspended or stage.job.deleting:  # it waits in a queue, or goes already
        return None
    left = limit - facts.seconds_since(stage.job.started or stage.job.created)
    if left > 0:
        return None
    times = facts.status.start_timeouts or 0
    pause = backoff(30, times, 1800)
    seen, _ = explain(facts)
    cause = f": {seen.sentence}" if seen else ""
    message = (
        f"not all {stage.job.parallelism} training pods were ready within {limit} s "
        f"(spec.startDeadlineSeconds), so they were given back; next try in "
        f"{int(pause.total_seconds())} s{cause}"
    )
    return Verdict(
        phase=Phase.PENDING,
        state=State.MOVING,
        reason=Reason.START_TIMEOUT,
        message=message,
        pending_reason=message,
        changes={
            **record_job(facts),
            "start_timeouts": times + 1,
            "next_attempt_time": facts.now + pause,
        },
        conditions=NOT_READY,
    )


def pods_not_ready(facts: Facts) -> Verdict | None:
    """The Job is there, its pods are not all ready: say why, if there is something to say."""
    stage = facts.stage
    if stage.job is None or gang_ready(facts):
        return None
    seen, again = explain(facts)
    deadline = None
    held = stage.job.suspended or stage.job.deleting
    if stage.name is StageName.TRAIN and not held:
        since = stage.job.started or stage.job.created  # time in a queue does not count
        deadline = facts.spec.start_deadline_seconds - facts.seconds_since(since)
    shrink = seconds_until_fewer(facts)
    times = (again, deadline, shrink if shrink is not None and shrink > 0 else None)
    again = min((s for s in times if s is not None), default=None)
    if seen is None:
        return _again(waiting(facts, stage.name), again, ())
    return Verdict(
        phase=seen.phase or WAITING_PHASES[stage.name],
        state=State.MOVING,
        reason=seen.reason,
        message=seen.sentence,
        pending_reason=seen.sentence,
        aside=record_job(facts),
        conditions=NOT_READY if stage.name is StageName.TRAIN else {},
        again_after=again,
    )


def running(facts: Facts) -> Verdict:
    """Nothing is wrong."""
    stage = facts.stage
    reason, message, state = {
        StageName.PREPARE: (
            Reason.PREPARING,
            "fetching, checking and tokenizing model and data",
            State.MOVING,
        ),
        StageName.TRAIN: (Reason.TRAINING, "all ranks train", State.RUNNING),
        StageName.SCORE: (Reason.SCORING, SCORING, State.RUNNING),
        StageName.EXPORT: (Reason.EXPORTING, tell_export(facts.status.reused), State.RUNNING),
    }[stage.name]
    training = stage.name is StageName.TRAIN
    changes: dict[str, Any] = {"failure": None}
    told = {ConditionType.GANG_READY.value: ("True", reason.value, "all training pods are ready")}
    if training:
        changes |= {"start_timeouts": None, **progress_changes(facts)}
        status = facts.status.model_copy(update=changes)
        message += _why_resized(facts)
        message += tell_start(status) + tell_skipped(status) + tell_silent(facts)
        if status.resumed_from and status.resumed_from.damaged:
            reason = Reason.CHECKPOINT_DAMAGED
        if left_out(status):
            reason = Reason.STEPS_SKIPPED
        fit = fit_condition(facts, facts.progress)
        _, finding, what = fit.get(ConditionType.OVERFITTING.value, ("", "", ""))
        if finding in HARMFUL:
            reason, message = Reason(finding), f"{message}; {what}"
        told |= fit
    return Verdict(
        phase=RUNNING_PHASES[stage.name],
        state=state,
        reason=reason,
        message=message,
        changes=changes,
        conditions=told if training else {},
        aside=record_job(facts),
        again_after=POLL_SECONDS if silent_pods(facts) else None,
    )


def _why_resized(facts: Facts) -> str:
    plan = facts.known_plan
    size, why = tell_size(plan), (plan.resolved.reasons or {}).get("workers")
    return f" ({size}{f': {why}' if why else ''})" if size else ""


def tell_export(reused: Reused | None) -> str:
    """What the export pod does."""
    taken = in_use(reused)
    if taken:
        return f"same lock as FineTuneJob {taken.job}: checking and copying its result"
    return "merging, checking and publishing the result"


def gang_ready(facts: Facts) -> bool:
    """All pods of the attempt are ready, or once were: readiness flickers under load, and goes
    with a container that has done its work."""
    stage = facts.stage
    if stage.job is None:
        return False
    if stage.name is StageName.TRAIN:
        once = facts.condition(ConditionType.GANG_READY)[0] == "True"
    else:
        once = facts.status.phase is Phase.PREPARING
    up = sum(pod.ready or pod.phase == "Succeeded" for pod in stage.pods)
    return once or up >= stage.job.parallelism


def creations(facts: Facts) -> tuple[Action, ...]:
    """What an attempt needs, its Job last."""
    plan, stage = facts.known_plan, facts.stage
    attempt = stage.attempt or 0
    first = attempt == 0
    lost = tuple(node.name for node in facts.status.lost_nodes or ())
    places = {"avoid": lost, "suspect": suspect_nodes(facts.status)}
    config_map = build_run_config_map(plan)
    match stage.name:
        case StageName.PREPARE:
            claim = build_claim(plan)
            wanted = [_ensure(config_map, first), *([_ensure(claim, first)] if claim else [])]
            job = build_prepare_job(plan, attempt, **places)
        case StageName.TRAIN:
            wanted = [_ensure(config_map), _ensure(build_headless_service(plan), first)]
            job = build_train_job(plan, attempt, **places)
        case StageName.SCORE:
            wanted = []
            job = build_score_job(plan, attempt, facts.status.attempt or 0, **places)
        case StageName.EXPORT:
            wanted = [_ensure(config_map)]
            job = build_export_job(plan, attempt, facts.status.attempt, **places)
    return (*wanted, Action(Verb.CREATE, "Job", job["metadata"]["name"], job))


def _ensure(manifest: dict[str, Any], fresh: bool = False) -> Action:
    name = manifest["metadata"]["name"]
    return Action(Verb.ENSURE, manifest["kind"], name, manifest, fresh=fresh)


def write_ahead(facts: Facts, stage: StageName, number: int) -> dict[str, Any]:
    """The status fields that announce an attempt before its Job is created."""
    plan = facts.known_plan
    fields = {**new_attempt(stage, number), "resolved": plan.resolved}
    if stage is StageName.PREPARE and plan.lineage:
        fields["lineage"] = plan.lineage
    if stage is StageName.TRAIN:
        folder = f"{plan.workspace}/attempts/{number}"
        fields["resumed_from"] = None
        fields["logs"] = Logs(
            claim=plan.claim_name, path=f"{folder}/logs", metrics_path=f"{folder}/metrics.jsonl"
        )
    return fields


def waiting(
    facts: Facts,
    stage: StageName,
    *,
    changes: dict[str, Any] | None = None,
    actions: tuple[Action, ...] = (),
) -> Verdict:
    """The verdict while an attempt's pods are not there yet, from write-ahead to ready.

    It reads the same all the way, so that nothing is written on that way.
    """
    plan = facts.known_plan
    reused = (changes or {}).get("reused", facts.status.reused)
    pods, size = plan.pods(stage), tell_size(plan)
    told = f"waiting for {pods} training pods" + (f" ({size})" if size else "")
    reason, message, state = {
        StageName.PREPARE: (Reason.ACCEPTED, "accepted; waiting for the prepare pod", State.MOVING),
        StageName.TRAIN: (Reason.STARTING, told, State.MOVING),
        StageName.SCORE: (Reason.SCORING, SCORING, State.RUNNING),
        StageName.EXPORT: (Reason.EXPORTING, tell_export(reused), State.RUNNING),
    }[stage]
    return Verdict(
        phase=WAITING_PHASES[stage],
        state=state,
        reason=reason,
        message=message,
        changes=changes or {},
        aside=record_job(facts) if not changes else {},
        conditions=NOT_READY if stage is StageName.TRAIN else {},
        actions=actions,
    )


def gone_soon(facts: Facts, reason: Reason, message: str) -> Verdict:
    pods = f": {name_pods(facts.live_pods)}" if facts.live_pods else ""
    return Verdict(
        phase=facts.status.phase or WAITING_PHASES[facts.stage.name],
        state=State.MOVING,
        reason=reason,
        message=message + pods,
        pending_reason=message + pods if overdue(facts) else None,
        changes=record_job(facts),
        actions=delete_jobs(facts.live_jobs),
        again_after=POLL_SECONDS,
    )


def overdue(facts: Facts) -> bool:
    return any(pod.deleting for pod in facts.live_pods)


def _as_stored(facts: Facts) -> Verdict:
    """The stored verdict once more: time passes, nothing else happens."""
    told = {condition.type: condition for condition in facts.status.conditions}
    main = told.get(ConditionType.RECONCILING.value)
    forbidden = facts.condition(ConditionType.STALLED)[1] == Reason.FORBIDDEN
    return Verdict(
        phase=facts.status.phase or Phase.PENDING,
        state=State.MOVING,
        reason=main.reason if main else Reason.RESTARTING,
        message=main.message if main else "",
        # What was missing then is not missing now, or it is said anew.
        pending_reason=None if forbidden else facts.status.pending_reason,
        conditions=NOT_READY,
    )


def _again(verdict: Verdict, seconds: float | None, actions: tuple[Action, ...]) -> Verdict:
    return replace(verdict, again_after=seconds, actions=actions)
