"""The end of an attempt: the next stage, another try, or the end of the job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..api.types import AfterSuccess, Failure, Phase, Reason, StageName
from ..plan import in_use
from ..reports import LastWords
from .attempts import NOT_READY, gone_soon, overdue, waiting, write_ahead
from .ending import POLL_SECONDS, name_pods
from .facts import RUNNING_PHASES, Facts, State, Verdict, record_job
from .failure import digest, digest_of_vanished, tell
from .fit import fit_condition, tell_fit, worse_than_base
from .gate import gate_passed
from .history import tell_skipped
from .human import bundle, held_back, needs_ratings
from .numbers import final_numbers, last_words, prepared_changes, trained_changes
from .out_of_reach import lost_of_attempt
from .published import published, told_published
from .restart import reason_to_stop, restart_or_end
from .reuse import reusable


def stage_completed(facts: Facts) -> Verdict | None:
    """The stage's Job is complete: write the next stage ahead, or say that the job succeeded."""
    job = facts.stage.job
    if job is None or not job.complete:
        return None
    words = last_words(facts)
    match facts.stage.name:
        case StageName.PREPARE:
            changes = {**prepared_changes(facts, words), "prepared": facts.now}
            reused = reusable(facts, changes["lock"], words)
            following = StageName.EXPORT if reused else StageName.TRAIN
            return next_stage(facts, following, {**changes, "reused": reused})
        case StageName.TRAIN:
            changes = {**trained_changes(facts, words), "trained": facts.now}
            following = StageName.SCORE if facts.known_plan.scorers else StageName.EXPORT
            verdict = next_stage(facts, following, changes)
            fit = fit_condition(facts, words)
            return replace(verdict, conditions={**verdict.conditions, **fit})
        case StageName.SCORE:
            return None  # see scorers_ended
        case StageName.EXPORT:
            if words and words.refused and in_use(facts.status.reused):
                return _trains_after_all(facts, words.refused)
            return _held(facts, words) if needs_ratings(facts) else _succeeded(facts, words)


def next_stage(facts: Facts, stage: StageName, changes: dict[str, Any]) -> Verdict:
    # After a result that was refused the export's first number is used up.
    known = facts.status.export_attempt if stage is StageName.EXPORT else None
    number = 0 if known is None else known + 1
    verdict = waiting(
        facts,
        stage,
        changes={
            **write_ahead(facts, stage, number),
            **record_job(facts),
            **changes,
            "failure": None,
            "start_timeouts": None,
        },
    )
    # The last pod's words may be newer than what the watches have told so far.
    return replace(verdict, final=True)


def _trains_after_all(facts: Facts, why: str) -> Verdict:
    """The result of another job does not agree with its hashes, or is gone."""
    reused = facts.status.reused
    refused = reused and reused.model_copy(update={"refused": why[:1024]})
    return next_stage(facts, StageName.TRAIN, {"reused": refused})


def _held(facts: Facts, words: LastWords | None) -> Verdict | None:
    """Nothing is published yet. Without export's words nobody knows what to rate: once more."""
    if facts.live_jobs or facts.live_pods:
        return gone_soon(facts, Reason.DRAINING, "waiting for pods to go")
    if facts.status.next_attempt_time is not None:
        return None
    numbers = final_numbers(facts, words.train) if words and words.train else {}
    return held_back(facts, words, numbers) or restart_or_end(facts, digest_of_vanished(facts))


def _succeeded(facts: Facts, words: LastWords | None) -> Verdict | None:
    if facts.live_jobs or facts.live_pods:  # an earlier stage's too, whoever brought it back
        return gone_soon(facts, Reason.DRAINING, "published; waiting for pods to go")
    plan = facts.known_plan
    changes: dict[str, Any] = {
        **record_job(facts),
        "exported": facts.now,
        "completion_time": facts.now,
        "failure": None,
        "artifact": published(plan, words.artifact if words else None),
    }
    if words and words.train:
        changes |= final_numbers(facts, words.train)
    if facts.status.human_evaluation is None:
        changes["human_evaluation"] = bundle(facts, words)
    if plan.spec.checkpoint.after_success is AfterSuccess.DELETE:
        changes["checkpoints"] = None
    worse = worse_than_base(changes.get("metrics", facts.status.metrics))
    return Verdict(
        phase=Phase.SUCCEEDED,
        state=State.SUCCEEDED,
        reason=Reason.WORSE_THAN_BASE if worse else Reason.SUCCEEDED,
        message=f"{f'{worse}; ' if worse else ''}"
        f"the result lies at {changes['artifact'].uri}{_tell_reused(facts)}"
        f"{tell_skipped(facts.status)}{tell_fit(facts.status)}",
        changes=changes,
        conditions={**gate_passed(facts, words), **told_published(words)},
    )


def _tell_reused(facts: Facts) -> str:
    reused = in_use(facts.status.reused)
    return f"; it is that of FineTuneJob {reused.job}, which has the same lock" if reused else ""


def job_failed(facts: Facts) -> Verdict | None:
    """The attempt is over and its pods are gone: another one, or the end with the digest."""
    job = facts.stage.job
    if job is None or facts.status.next_attempt_time is not None:
        return None
    if job.failure is None and not facts.is_played_out(job):
        return None
    return restart_or_end(facts, digest(facts))


def job_failing(facts: Facts) -> Verdict | None:
    """A rank is down, so the gang goes down; the verdict waits for the last pod."""
    job = facts.stage.job
    if job is None or job.failing is None or facts.status.next_attempt_time is not None:
        return None
    failure = digest(facts)
    if lost_of_attempt(facts) and not facts.live_pods:
        return restart_or_end(facts, failure)  # the Job would wait for lost pods for ever
    others = name_pods(facts.live_pods)
    kept = facts.status.phase or RUNNING_PHASES[facts.stage.name]
    return Verdict(
        phase=kept if reason_to_stop(facts, failure) else Phase.RESTARTING,
        state=State.MOVING,
        reason=Reason.DRAINING,
        message=f"{tell(failure)}; waiting for the other pods to go",
        changes={**record_job(facts), "failure": failure},
        conditions=NOT_READY,
        pending_reason=f"waiting for {others} to end" if overdue(facts) and others else None,
        again_after=POLL_SECONDS,
        quiet=True,
    )


def job_vanished(facts: Facts) -> Verdict | None:
    """The attempt's Job was there and is gone, and it was not us, or the job was ending."""
    stage = facts.stage
    if stage.job is not None or stage.job_uid is None or stage.attempt is None:
        return None
    told = _told_of_attempt(facts)
    if told is not None and reason_to_stop(facts, told) is not None:
        return restart_or_end(facts, told)  # the job was ending, and it was us
    if facts.live_pods and told is not None:
        return gone_soon(facts, Reason.DRAINING, f"{tell(told)}; waiting for its pods")
    if facts.live_pods:
        return gone_soon(facts, Reason.JOB_VANISHED, "its Job was deleted; waiting for its pods")
    return restart_or_end(facts, told or digest_of_vanished(facts))


def _told_of_attempt(facts: Facts) -> Failure | None:
    """What the status already says of the present attempt's end."""
    told, stage = facts.status.failure, facts.stage
    same = told is not None and (told.stage, told.attempt) == (stage.name, stage.attempt)
    return told if same else None
