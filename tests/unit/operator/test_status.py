"""The rules in their order: one row for each rule and each edge of it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import (
    KEY,
    NOW,
    UID,
    ended_pod,
    failure_words,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    pending_pod,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Checkpoints,
    Condition,
    ConditionType,
    Failure,
    FineTuneJobStatus,
    HumanEvaluation,
    LatestCheckpoint,
    MemoryStatus,
    Phase,
    Progress,
    Reason,
    Resize,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.observed import Termination
from finetune_operator.policies.facts import Facts, NamespaceBudget, Obstacle, State, Verb
from finetune_operator.policies.ratings import Ratings
from finetune_operator.reports import read_progress
from finetune_operator.status import RULES, Decision, decide, judge

P, T, S, X = StageName.PREPARE, StageName.TRAIN, StageName.SCORE, StageName.EXPORT
SUSPEND = make_spec(suspend=True)
BRIEF = {"terminationGracePeriodSeconds": 30}
DEADLINE = make_spec(activeDeadlineSeconds=90, workers=BRIEF)
ONCE = make_spec(recovery={"maxRestarts": 0, "maxInfrastructureRestarts": 0})
ON_GPUS = make_spec(workers={"ranksPerWorker": None, "gpusPerWorker": 2})
NO_HOURS = NamespaceBudget(0.0, 0)
TTL = make_spec(ttlSecondsAfterFinished=60)
COMPLETE = {"complete": True}
FAILED = {"failure": ("BackoffLimitExceeded", "too many failures")}
FAILING = {"failing": ("BackoffLimitExceeded", "too many failures")}
SCORED = make_spec(evaluation={"generation": {"scorers": [{"name": "polite", "image": "a:1"}]}})
SAID = Termination(0, "Completed", '{"tuned": {"tone": 0.9}}', NOW)
CUDA_OOM = failure_words(**{"class": "CudaOom", "rank": 1, "message": "out of memory", "at": 1.0})


def condition(name: str, value: str, reason: str) -> Condition:
    return Condition(
        type=name,
        status=value,  # type: ignore[arg-type]
        reason=reason,
        message="",
        last_transition_time=NOW - seconds(50),
    )


def ready_gang(**fields: Any) -> FineTuneJobStatus:
    """A job whose gang was ready once."""
    gang = (condition("GangReady", "True", "Training"),)
    return status_in(T, phase=Phase.TRAINING, conditions=gang, **fields)


def small_gang(reason: str = "Training", **fields: Any) -> FineTuneJobStatus:
    """A gang of one worker that has trained for half an hour; two are wanted."""
    smaller = Resize(attempt=0, workers_before=2, workers=1, wanted=2, step=0, at=NOW)
    known = ready_gang(
        resolved=Resolved(global_batch_size=16, resizes=(smaller,)),
        progress=Progress(stage=T, step=40, steps=90),
        **fields,
    )
    since = {"last_transition_time": NOW - seconds(1800)}
    ready = tuple(condition.model_copy(update=since) for condition in known.conditions)
    main = condition("Reconciling", "True", reason)
    return known.model_copy(update={"conditions": (main, *ready)})


def restarting(due: Any = NOW) -> FineTuneJobStatus:
    """A gang failed, its restart is paid, and the next attempt is due."""
    return status_in(
        T,
        phase=Phase.RESTARTING,
        job_uid="uid-of-demo-a0",
        next_attempt_time=due,
        restarts=Restarts(program=1, infrastructure=0),
        conditions=(condition("Reconciling", "True", "Restarting"),),
    )


def train(**fields: Any) -> tuple[Any, ...]:
    return (make_child_job(T, **fields),)


GANG = (make_pod(0), make_pod(1))
SILENT = {"silent": NOW - seconds(40), "ready": False}
LOST = {"silent": NOW - seconds(60), "ready": False}
OVERDUE = {"due": NOW - seconds(60)}
TRAINS = read_progress(
    json.dumps(
        {"attempt": 0, "step": 7, "updatedAt": 1, "ranks": [{"at": NOW.timestamp() - 59}]}
    ).encode()
)
"""A gang that gave a sign of life 59 seconds ago."""
NEWS = TRAINS and TRAINS.model_copy(update={"step": 40})
ELASTIC = make_spec(recovery={"elastic": {"min": 1}})
NO_NODE = ("Unschedulable", "0/1 nodes are available", NOW)

ASKS_PEOPLE = make_spec(
    evaluation={"generation": {}, "human": {}}, gate={"human": {"minWinRate": "0.6"}}
)
HELD = status_in(X, export_attempt=1, human_evaluation=HumanEvaluation(bundle="sha256:ab", items=9))
ROWS: list[Any] = [
    # finished
    pytest.param(
        make_facts(status_in(X, phase=Phase.SUCCEEDED, completion_time=NOW), spec=SUSPEND),
        ("finished", Phase.SUCCEEDED, State.SUCCEEDED, "Succeeded", ""),
        id="a finished job stays finished, whatever is wished now",
    ),
    pytest.param(
        make_facts(status_in(T, phase=Phase.FAILED, completion_time=NOW), jobs=train()),
        ("finished", Phase.FAILED, State.FAILED, "Failed", "delete Job demo-a0"),
        id="what is left over from a finished job goes",
    ),
    pytest.param(
        make_facts(
            status_in(X, phase=Phase.SUCCEEDED, completion_time=NOW - seconds(61)),
            spec=TTL,
            jobs=(make_child_job(X, **COMPLETE),),
        ),
        (
            "finished",
            Phase.SUCCEEDED,
            State.SUCCEEDED,
            "Succeeded",
            "delete Service demo, delete ConfigMap demo-run, delete Job demo-x0",
        ),
        id="children go when their time to live is over",
    ),
    pytest.param(
        make_facts(
            status_in(X, phase=Phase.SUCCEEDED, completion_time=NOW - seconds(59)),
            spec=TTL,
            jobs=(make_child_job(X, **COMPLETE),),
        ),
        ("finished", Phase.SUCCEEDED, State.SUCCEEDED, "Succeeded", ""),
        id="and not before",
    ),
    # spec_invalid
    pytest.param(
        make_facts(spec=make_spec(model={"uri": "ftp://x"})),
        ("spec_invalid", Phase.FAILED, State.FAILED, "InvalidSpec", ""),
        id="a spec that cannot work ends the job without any child",
    ),
    pytest.param(
        make_facts(status_in(T), spec={}, jobs=train(), pods=GANG),
        ("spec_invalid", Phase.TRAINING, State.MOVING, "InvalidSpec", "delete Job demo-a0"),
        id="a spec that became invalid under running pods takes them down first",
    ),
    # scorers_ended
    pytest.param(
        make_facts(
            status_in(S),
            jobs=(make_child_job(S, **COMPLETE),),
            pods=(ended_pod(0, S, ended=(("polite", SAID),)),),
            spec=SCORED,
        ),
        ("scorers_ended", Phase.EXPORTING, State.RUNNING, "Exporting", ""),
        id="the scorers have ended: export is written ahead",
    ),
    # stage_completed
    pytest.param(
        make_facts(status_in(P), jobs=(make_child_job(P, **COMPLETE),)),
        ("stage_completed", Phase.STARTING, State.MOVING, "Starting", ""),
        id="prepare is done: training is written ahead, nothing is created yet",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(**COMPLETE), spec=SUSPEND),
        ("stage_completed", Phase.EXPORTING, State.RUNNING, "Exporting", ""),
        id="training that was done before it could be suspended counts",
    ),
    pytest.param(
        make_facts(status_in(X), jobs=(make_child_job(X, **COMPLETE),)),
        ("stage_completed", Phase.SUCCEEDED, State.SUCCEEDED, "Succeeded", ""),
        id="export is done: the job has succeeded",
    ),
    pytest.param(
        make_facts(status_in(X), jobs=(make_child_job(X, **COMPLETE),), pods=(make_pod(0, X),)),
        ("stage_completed", Phase.EXPORTING, State.MOVING, "Draining", ""),
        id="but not while a pod is left",
    ),
    # job_failed
    pytest.param(
        make_facts(
            ready_gang(), jobs=train(**FAILED), pods=(ended_pod(1, code=71, words=CUDA_OOM),)
        ),
        ("job_failed", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="a failed gang is started again",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(**FAILED),
            pods=(ended_pod(1, code=71, words=CUDA_OOM),),
            spec=ONCE,
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "CudaOom", ""),
        id="without a budget it ends the job with its class",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(**FAILED),
            pods=(ended_pod(1, code=71, words=CUDA_OOM), make_pod(0, deleting=True)),
            spec=ONCE,
        ),
        ("job_failed", Phase.TRAINING, State.MOVING, "CudaOom", ""),
        id="but not while a survivor still holds its GPU",
    ),
    pytest.param(
        make_facts(
            status_in(P),
            jobs=(make_child_job(P, **FAILED),),
            pods=(ended_pod(0, P, code=143, disruption="EvictionByEvictionAPI"),),
        ),
        ("job_failed", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="an evicted prepare pod is tried again",
    ),
    pytest.param(
        make_facts(
            status_in(P, prepare_attempt=20, restarts=Restarts(infrastructure=20)),
            jobs=(make_child_job(P, 20, **FAILED),),
            pods=(ended_pod(0, P, attempt=20, code=143, disruption="Evicted"),),
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "RestartsExhausted", ""),
        id="but not for ever",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(**FAILED),
            pods=(ended_pod(1, code=71, words=CUDA_OOM),),
            spec=DEADLINE,
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "DeadlineExceeded", ""),
        id="nor when the time is up",
    ),
    pytest.param(
        make_facts(
            status_in(P),
            jobs=(make_child_job(P, **FAILED),),
            pods=(ended_pod(0, P, code=65, words=failure_words(P, message="rows.jsonl:7")),),
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "BadData", ""),
        id="bad data will be as bad the next time",
    ),
    pytest.param(
        make_facts(
            ready_gang(progress=Progress(step=1, steps=9, eta_seconds=5)),
            jobs=train(**FAILED),
            pods=(ended_pod(1, code=1),),
            spec=ONCE,
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "UnknownFailure", ""),
        id="a gang that fails leaves its progress behind",
    ),
    # job_failing
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(**FAILING),
            pods=(ended_pod(1, code=71), make_pod(0, deleting=True)),
            spec=SUSPEND,
        ),
        ("job_failing", Phase.RESTARTING, State.MOVING, "Draining", ""),
        id="a gang that goes down is left alone until its Job is Failed",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(**FAILING), pods=(ended_pod(1, code=71),), spec=ONCE),
        ("job_failing", Phase.TRAINING, State.MOVING, "Draining", ""),
        id="and promises no restart where none will follow",
    ),
    pytest.param(
        make_facts(
            ready_gang(), jobs=train(**FAILING), pods=(ended_pod(1, code=74), make_pod(0, **SILENT))
        ),
        ("job_failing", Phase.RESTARTING, State.MOVING, "Draining", ""),
        id="a pod whose node does not answer is waited for",
    ),
    pytest.param(
        make_facts(
            ready_gang(), jobs=train(**FAILING), pods=(ended_pod(1, code=74), make_pod(0, **LOST))
        ),
        ("job_failing", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="but not for ever, as its Job would",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(parallelism=3, **FAILING),
            pods=(ended_pod(1, code=74), make_pod(0, **LOST), make_pod(2, deleting=True)),
        ),
        ("job_failing", Phase.RESTARTING, State.MOVING, "Draining", ""),
        id="nor without the others",
    ),
    # deadline_exceeded
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=GANG, spec=DEADLINE),
        (
            "deadline_exceeded",
            Phase.TRAINING,
            State.MOVING,
            "DeadlineExceeded",
            "delete Job demo-a0",
        ),
        id="the time is up: pods are asked to stop",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), spec=DEADLINE),
        ("deadline_exceeded", Phase.FAILED, State.FAILED, "DeadlineExceeded", ""),
        id="the time is up and no pod is left",
    ),
    pytest.param(
        make_facts(restarting(), jobs=train(**FAILED), spec=DEADLINE),
        ("deadline_exceeded", Phase.FAILED, State.FAILED, "DeadlineExceeded", ""),
        id="the time is up before the next attempt",
    ),
    # suspended
    pytest.param(
        make_facts(spec=SUSPEND),
        ("suspended", Phase.SUSPENDED, State.SUSPENDED, "Suspended", ""),
        id="a job may be created suspended: nothing begins",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=GANG, spec=SUSPEND),
        ("suspended", Phase.TRAINING, State.MOVING, "Suspending", "delete Job demo-a0"),
        id="suspending ends the attempt's Job",
    ),
    pytest.param(
        make_facts(
            ready_gang(), jobs=train(deleting=True), pods=(make_pod(deleting=True),), spec=SUSPEND
        ),
        ("suspended", Phase.TRAINING, State.MOVING, "Suspending", ""),
        id="and waits for its pods to save",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), spec=SUSPEND),
        ("suspended", Phase.SUSPENDED, State.SUSPENDED, "Suspended", ""),
        id="then it is suspended",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), pods=(make_pod(**OVERDUE),), spec=SUSPEND),
        ("suspended", Phase.SUSPENDED, State.SUSPENDED, "Suspended", ""),
        id="pods that were given up are not waited for",
    ),
    pytest.param(
        make_facts(restarting(), jobs=train(**FAILED), spec=SUSPEND),
        ("suspended", Phase.SUSPENDED, State.SUSPENDED, "Suspended", ""),
        id="suspending wins over a restart that is due",
    ),
    # budget_exceeded
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=GANG, spec=ON_GPUS, namespace_budget=NO_HOURS),
        (
            "budget_exceeded",
            Phase.TRAINING,
            State.MOVING,
            "BudgetExceeded",
            "delete Job demo-a0",
        ),
        id="no GPU-hours are left: pods are asked to save and go",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), spec=ON_GPUS, namespace_budget=NO_HOURS),
        ("budget_exceeded", Phase.SUSPENDED, State.STUCK, "BudgetExceeded", ""),
        id="then it waits for more of them",
    ),
    # resumed
    pytest.param(
        make_facts(status_in(T, phase=Phase.SUSPENDED, suspend_time=NOW - seconds(9), job_uid="x")),
        ("resumed", Phase.STARTING, State.MOVING, "Resumed", ""),
        id="resuming asks for the next attempt",
    ),
    pytest.param(
        make_facts(
            status_in(
                T,
                phase=Phase.TRAINING,
                job_uid="x",
                conditions=(condition("Reconciling", "True", "Suspending"),),
            ),
            pods=(make_pod(deleting=True),),
        ),
        ("resumed", Phase.STARTING, State.MOVING, "Resumed", ""),
        id="also when the pods are still on their way out",
    ),
    # growing
    pytest.param(
        make_facts(
            small_gang(),
            jobs=train(parallelism=1),
            pods=(make_pod(0),),
            spec=ELASTIC,
            progress=NEWS,
        ),
        ("growing", Phase.TRAINING, State.MOVING, "Resizing", "delete Job demo-a0"),
        id="there was too little room half an hour ago",
    ),
    pytest.param(
        make_facts(small_gang("Resizing"), jobs=train(), pods=(make_pod(0),), spec=ELASTIC),
        ("growing", Phase.TRAINING, State.MOVING, "Resizing", "delete Job demo-a0"),
        id="the small gang saves and ends",
    ),
    pytest.param(
        make_facts(small_gang("Resizing", job_uid="x"), spec=ELASTIC),
        ("growing", Phase.RESTARTING, State.MOVING, "Resized", ""),
        id="then the next attempt is the whole gang",
    ),
    # evicted
    pytest.param(
        make_facts(ready_gang(), jobs=train(suspended=True)),
        ("evicted", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="a queue took the gang's quota back",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(suspended=True), pods=(make_pod(deleting=True),)),
        ("evicted", Phase.RESTARTING, State.MOVING, "Draining", ""),
        id="its pods save and go first",
    ),
    # between_attempts
    pytest.param(
        make_facts(
            status_in(T, phase=Phase.STARTING, next_attempt_time=NOW, job_uid="uid-of-demo-a0"),
            jobs=train(),
            pods=GANG,
        ),
        ("between_attempts", Phase.STARTING, State.MOVING, "Restarting", "delete Job demo-a0"),
        id="the old gang goes first",
    ),
    pytest.param(
        make_facts(
            status_in(T, phase=Phase.PENDING, next_attempt_time=NOW + seconds(5), job_uid="x")
        ),
        ("between_attempts", Phase.PENDING, State.MOVING, "Restarting", ""),
        id="then time passes",
    ),
    pytest.param(
        make_facts(restarting(NOW + seconds(5)), jobs=train(**FAILED)),
        ("between_attempts", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="also where the failed Job is still there: its restart is paid once",
    ),
    pytest.param(
        make_facts(status_in(T, phase=Phase.PENDING, next_attempt_time=NOW, job_uid="x")),
        ("between_attempts", Phase.STARTING, State.MOVING, "Starting", ""),
        id="then the next attempt is written ahead",
    ),
    pytest.param(
        make_facts(restarting(), jobs=train(), pods=(make_pod(0, **LOST), make_pod(1))),
        ("between_attempts", Phase.RESTARTING, State.MOVING, "Restarting", "delete Job demo-a0"),
        id="the survivors of a lost node go first",
    ),
    pytest.param(
        make_facts(restarting(), pods=(make_pod(0, deleting=True, **LOST),)),
        ("between_attempts", Phase.STARTING, State.MOVING, "Starting", ""),
        id="then the next attempt follows, whatever lost pods do",
    ),
    pytest.param(
        make_facts(restarting(), pods=(make_pod(0, deleting=True, **SILENT),)),
        ("between_attempts", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="but not beside a pod that is not lost yet",
    ),
    # node_lost
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(make_pod(0, **LOST), make_pod(1))),
        ("node_lost", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="a node has not answered for too long: the attempt is over",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(make_pod(0, **OVERDUE), make_pod(1))),
        ("node_lost", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="or a pod had to be gone for too long",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(),
            pods=(make_pod(0), make_pod(1, deleting=True, **LOST)),
            progress=TRAINS,
        ),
        ("node_lost", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="a gang that trains ends when Kubernetes evicts its pod",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(make_pod(0, **LOST), make_pod(1)), spec=ONCE),
        ("node_lost", Phase.TRAINING, State.MOVING, "NodeLost", "delete Job demo-a0"),
        id="without a budget the job ends, once the others are gone",
    ),
    pytest.param(
        make_facts(
            status_in(P), jobs=(make_child_job(P),), pods=(make_pod(0, P, **LOST),), spec=ONCE
        ),
        ("node_lost", Phase.PREPARING, State.MOVING, "NodeLost", "delete Job demo-p0"),
        id="also the pod of another stage can be lost",
    ),
    # job_vanished
    pytest.param(
        make_facts(ready_gang(job_uid="x")),
        ("job_vanished", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="somebody deleted the gang's Job: it is started again",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), spec=ONCE),
        ("job_vanished", Phase.FAILED, State.FAILED, "JobVanished", ""),
        id="unless that is not wanted",
    ),
    pytest.param(
        make_facts(
            ready_gang(job_uid="x", failure=Failure(failure_class="NodeLost", stage=T, attempt=0)),
            pods=(make_pod(0, deleting=True, **LOST),),
            spec=ONCE,
        ),
        ("job_vanished", Phase.FAILED, State.FAILED, "NodeLost", ""),
        id="a job that ended for a lost node says so when its Job is gone",
    ),
    pytest.param(
        make_facts(
            ready_gang(job_uid="x"),
            evidence=(ended_pod(0, code=75), ended_pod(1, code=143)),
            spec=ONCE,
        ),
        ("job_vanished", Phase.FAILED, State.FAILED, "JobVanished", ""),
        id="whose pods only followed it",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), evidence=(ended_pod(0, code=71),), spec=ONCE),
        ("job_vanished", Phase.FAILED, State.FAILED, "CudaOom", ""),
        id="unlike one that had failed by itself",
    ),
    pytest.param(
        make_facts(ready_gang(job_uid="x"), pods=(make_pod(),)),
        ("job_vanished", Phase.TRAINING, State.MOVING, "JobVanished", ""),
        id="and its pods still run",
    ),
    pytest.param(
        make_facts(status_in(P, prepare_job_uid="x")),
        ("job_vanished", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="a vanished prepare Job is made again too",
    ),
    # leftovers_alive
    pytest.param(
        make_facts(status_in(T, attempt=1), jobs=train(), pods=GANG),
        ("leftovers_alive", Phase.STARTING, State.MOVING, "Draining", "delete Job demo-a0"),
        id="a live Job of an older attempt is ended before the next is made",
    ),
    # previous_incarnation_alive
    pytest.param(
        make_facts(jobs=train(owner_uid="other", uid="o"), pods=(make_pod(owner_uid="other"),)),
        ("previous_incarnation_alive", Phase.PENDING, State.MOVING, "PreviousJobTerminating", ""),
        id="children of a deleted job of the same name are waited for",
    ),
    pytest.param(
        make_facts(pods=(make_pod(owner_uid="other", **SILENT),)),
        ("previous_incarnation_alive", Phase.PENDING, State.MOVING, "PreviousJobTerminating", ""),
        id="also where their node does not answer, for a while",
    ),
    # awaiting_ratings
    pytest.param(
        make_facts(HELD, jobs=(make_child_job(X, complete=True),), spec=ASKS_PEOPLE),
        ("awaiting_ratings", Phase.EXPORTING, State.RUNNING, "WaitingForRatings", ""),
        id="a model that people have to rate waits for them, without a pod",
    ),
    pytest.param(
        make_facts(HELD, spec=ASKS_PEOPLE, ratings=Ratings(faults=("key a: it is no JSON",))),
        ("awaiting_ratings", Phase.EXPORTING, State.STUCK, "RatingsInvalid", ""),
        id="ratings that cannot be read have to be mended",
    ),
    # obstructed
    pytest.param(
        make_facts(obstacle=Obstacle("ClaimNotFound", "create it", stalled=True)),
        ("obstructed", Phase.PENDING, State.STUCK, "ClaimNotFound", ""),
        id="a missing claim can still be made",
    ),
    pytest.param(
        make_facts(obstacle=Obstacle("SourceNotReady", "waiting")),
        ("obstructed", Phase.PENDING, State.MOVING, "SourceNotReady", ""),
        id="a source that is not ready yet is waited for",
    ),
    pytest.param(
        make_facts(obstacle=Obstacle("ClaimNotShared", "use another", final=True)),
        ("obstructed", Phase.FAILED, State.FAILED, "ClaimNotShared", ""),
        id="a claim of the wrong kind ends the job",
    ),
    # budget_unreadable
    pytest.param(
        make_facts(status_in(T), spec=ON_GPUS, namespace_budget=NamespaceBudget(None, 0)),
        ("budget_unreadable", Phase.STARTING, State.STUCK, "BudgetInvalid", ""),
        id="a budget that is no number can be corrected",
    ),
    # not_begun
    pytest.param(
        make_facts(),
        ("not_begun", Phase.PENDING, State.MOVING, "Accepted", ""),
        id="a new job: its first attempt is written ahead, nothing is created yet",
    ),
    # memory_short
    pytest.param(
        make_facts(
            status_in(
                T,
                attempt=0,
                resolved=Resolved(memory=MemoryStatus(predicted_bytes=2, available_bytes=1)),
            ),
            spec=make_spec(workers={"onMemoryShortage": "Fail"}),
        ),
        ("memory_short", Phase.FAILED, State.FAILED, "MemoryShort", ""),
        id="training would not fit, and is not to be tried",
    ),
    # creation_refused
    pytest.param(
        make_facts(status_in(P), refusal=Obstacle("NameConflict", "taken", stalled=True)),
        (
            "creation_refused",
            Phase.PENDING,
            State.STUCK,
            "NameConflict",
            "ensure ConfigMap demo-run, create Job demo-p0",
        ),
        id="a refused creation is told and tried again",
    ),
    # job_missing
    pytest.param(
        make_facts(status_in(P)),
        (
            "job_missing",
            Phase.PENDING,
            State.MOVING,
            "Accepted",
            "ensure ConfigMap demo-run, create Job demo-p0",
        ),
        id="prepare is created",
    ),
    pytest.param(
        make_facts(status_in(T)),
        (
            "job_missing",
            Phase.STARTING,
            State.MOVING,
            "Starting",
            "ensure ConfigMap demo-run, ensure Service demo, create Job demo-a0",
        ),
        id="the gang is created behind its Service",
    ),
    pytest.param(
        make_facts(
            status_in(P),
            spec=make_spec(
                storage={"claimRef": None, "size": "1Gi"}, output={"uri": "pvc://out/x"}
            ),
        ),
        (
            "job_missing",
            Phase.PENDING,
            State.MOVING,
            "Accepted",
            "ensure ConfigMap demo-run, ensure PersistentVolumeClaim demo-work, create Job demo-p0",
        ),
        id="a claim of a size is made first",
    ),
    # node_unreachable
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(make_pod(0, **SILENT), make_pod(1))),
        ("node_unreachable", Phase.TRAINING, State.MOVING, "NodeUnreachable", ""),
        id="a node does not answer: it may come back",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(),
            pods=(make_pod(0, **LOST), make_pod(1)),
            listening_since=NOW - seconds(59),
        ),
        ("node_unreachable", Phase.TRAINING, State.MOVING, "NodeUnreachable", ""),
        id="an operator that has only just begun to listen gives nobody up",
    ),
    pytest.param(
        make_facts(status_in(P), jobs=(make_child_job(P),), pods=(make_pod(0, P, **SILENT),)),
        ("node_unreachable", Phase.PREPARING, State.MOVING, "NodeUnreachable", ""),
        id="the node of a prepare pod does not answer",
    ),
    # too_little_room
    pytest.param(
        make_facts(
            status_in(T),
            jobs=train(created=NOW - seconds(301)),
            pods=(make_pod(0), pending_pod(1, unscheduled=NO_NODE, created=NOW - seconds(300))),
            spec=ELASTIC,
        ),
        ("too_little_room", Phase.RESTARTING, State.MOVING, "Resized", ""),
        id="an elastic gang does without the pod that finds no node",
    ),
    # start_timeout
    pytest.param(
        make_facts(
            status_in(T),
            jobs=train(created=NOW - seconds(1801)),
            pods=(make_pod(0), pending_pod(1)),
        ),
        ("start_timeout", Phase.PENDING, State.MOVING, "StartTimeout", ""),
        id="a half-placed gang gives its pods back",
    ),
    # pods_not_ready
    pytest.param(
        make_facts(status_in(T), jobs=train(), pods=(make_pod(0), pending_pod(1))),
        ("pods_not_ready", Phase.STARTING, State.MOVING, "Starting", ""),
        id="a gang that is coming up has nothing to explain",
    ),
    pytest.param(
        make_facts(
            status_in(T),
            jobs=train(),
            pods=tuple(
                pending_pod(i, unscheduled=("Unschedulable", "0/3 nodes are available", NOW))
                for i in (0, 1)
            ),
        ),
        ("pods_not_ready", Phase.STARTING, State.MOVING, "Unschedulable", ""),
        id="a gang without nodes says so",
    ),
    pytest.param(
        make_facts(status_in(T), jobs=train(suspended=True)),
        ("pods_not_ready", Phase.QUEUED, State.MOVING, "Queued", ""),
        id="a Job held back by a queue is queued",
    ),
    # running
    pytest.param(
        make_facts(status_in(P), jobs=(make_child_job(P),), pods=(make_pod(0, P),)),
        ("running", Phase.PREPARING, State.MOVING, "Preparing", ""),
        id="prepare runs",
    ),
    pytest.param(
        make_facts(status_in(T), jobs=train(), pods=GANG),
        ("running", Phase.TRAINING, State.RUNNING, "Training", ""),
        id="the gang trains",
    ),
    pytest.param(
        make_facts(ready_gang(suspended_seconds=30), jobs=train(), pods=GANG, spec=DEADLINE),
        ("running", Phase.TRAINING, State.RUNNING, "Training", ""),
        id="time suspended does not count",
    ),
    pytest.param(
        make_facts(
            status_in(T),
            jobs=train(),
            pods=GANG,
            progress=read_progress(b'{"attempt": 0, "step": 1, "steps": 9, "updatedAt": 1}'),
        ),
        ("running", Phase.TRAINING, State.RUNNING, "Training", ""),
        id="the gang trains, and does not know yet how long",
    ),
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(make_pod(0, ready=False), make_pod(1))),
        ("running", Phase.TRAINING, State.RUNNING, "Training", ""),
        id="a pod that is not ready for a moment does not unmake a gang",
    ),
    pytest.param(
        make_facts(
            ready_gang(), jobs=train(), pods=(make_pod(0, **LOST), make_pod(1)), progress=TRAINS
        ),
        ("running", Phase.TRAINING, State.RUNNING, "Training", ""),
        id="a gang that trains has lost nobody, whatever Kubernetes hears of its nodes",
    ),
    pytest.param(
        make_facts(status_in(X), jobs=(make_child_job(X),), pods=(make_pod(0, X),)),
        ("running", Phase.EXPORTING, State.RUNNING, "Exporting", ""),
        id="export runs",
    ),
]


@pytest.mark.parametrize(("facts", "expected"), ROWS)
def test_the_first_rule_that_fits_decides(facts: Facts, expected: tuple[Any, ...]) -> None:
    rule = next(rule for rule in RULES if rule(facts) is not None)
    verdict = judge(facts)
    actions = ", ".join(f"{a.verb.value} {a.kind} {a.name}" for a in verdict.actions)
    seen = (rule.__name__, verdict.phase, verdict.state, str(verdict.reason), actions)
    assert seen == expected


def test_every_rule_has_a_row_and_the_rows_stand_in_the_order_of_the_rules() -> None:
    names = [row.values[1][0] for row in ROWS]
    order = [rule.__name__ for rule in RULES]
    assert list(dict.fromkeys(names)) == order


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_a_status_that_is_read_back_comes_to_rest(facts: Facts) -> None:
    """While nothing happens in the cluster, a job writes at most three times and then never."""
    for _ in range(4):
        decision = decide(facts)
        if decision.status == facts.job.status:
            return
        facts = _read_back(facts, decision)
    pytest.fail(f"still writing: {decision.status}")


def _read_back(facts: Facts, decision: Decision) -> Facts:
    status = FineTuneJobStatus.model_validate(decision.status)
    return make_facts(
        status,
        jobs=facts.observed.jobs,
        pods=facts.observed.pods,
        spec=facts.job.spec,
        obstacle=facts.obstacle,
        refusal=facts.refusal,
        now=facts.now,
        progress=facts.progress,
        listening_since=facts.listening_since,
    )


CRD = Path(__file__).parents[3] / "crds" / "finetunejobs.finetune.dev.yaml"


@cache
def status_schema() -> Any:
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]["status"]


def misfits(schema: Any, value: Any, path: str = "status") -> list[str]:
    """Where a value breaks the structure that the API server enforces."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, kinds.get(schema.get("type"), object)):
        return [f"{path}: {value!r} is no {schema['type']}"]
    if value not in schema.get("enum", [value]):
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    found: list[str] = []
    if isinstance(value, dict):
        fields, rest = schema.get("properties", {}), schema.get("additionalProperties")
        found += [f"{path}.{name}: missing" for name in schema.get("required", ())
                  if name not in value]  # fmt: skip
        for name, part in value.items():
            if name not in fields and not rest:
                found.append(f"{path}.{name}: unknown")
            else:
                found += misfits(fields.get(name) or rest, part, f"{path}.{name}")
    if isinstance(value, list):
        for part in value:
            found += misfits(schema["items"], part, f"{path}[]")
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        found.append(f"{path}: {len(value)} characters")
    return found


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_a_decided_status_has_the_structure_of_the_crd(facts: Facts) -> None:
    assert misfits(status_schema(), json.loads(json.dumps(decide(facts).status))) == []


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    decision = decide(make_facts(status_in(T), deleting=True))
    assert decision.actions == () and decision.status == status_in(T).wire()


def test_actions_never_go_along_with_a_change_of_the_status_that_they_rest_on() -> None:
    """What creates an attempt needs its number in the stored status."""
    decision = decide(make_facts())
    assert decision.status["prepareAttempt"] == 0
    assert decision.actions == ()


CONDITIONS = [
    pytest.param(make_facts(), ("True", "False", "Unknown", "False"), id="accepted"),
    pytest.param(
        make_facts(status_in(T), jobs=train(), pods=GANG),
        ("False", "False", "Unknown", "False"),
        id="pods run",
    ),
    pytest.param(make_facts(spec=SUSPEND), ("False", "False", "Unknown", "False"), id="suspended"),
    pytest.param(
        make_facts(status_in(X), jobs=(make_child_job(X, **COMPLETE),)),
        ("False", "False", "True", "False"),
        id="succeeded",
    ),
    pytest.param(make_facts(spec={}), ("False", "True", "False", "True"), id="spec invalid"),
    pytest.param(
        make_facts(obstacle=Obstacle("ClaimNotFound", "create it", stalled=True)),
        ("False", "True", "Unknown", "False"),
        id="stuck until a person acts",
    ),
]


@pytest.mark.parametrize(("facts", "expected"), CONDITIONS)
def test_conditions_stand_as_kstatus_needs_them(facts: Facts, expected: tuple[str, ...]) -> None:
    status = decide(facts).status
    names = ("Reconciling", "Stalled", "Succeeded", "Failed")
    assert tuple(main_condition(status, name)["status"] for name in names) == expected
    assert [c["type"] for c in status["conditions"]] == [kind.value for kind in ConditionType]
    assert all(c["reason"] and c["observedGeneration"] == 1 for c in status["conditions"])


def test_a_suspended_gang_is_not_called_ready() -> None:
    status = decide(make_facts(ready_gang(job_uid="x"), spec=SUSPEND)).status
    assert status["phase"] == "Suspended"
    assert main_condition(status, "GangReady")["status"] == "False"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = FineTuneJobStatus.model_validate(decide(make_facts()).status)
    later = make_facts(first, now=NOW + seconds(60), generation=2)
    status = decide(later).status
    assert status["observedGeneration"] == 2
    assert main_condition(status)["lastTransitionTime"] == "2026-11-23T12:00:00Z"
    assert main_condition(status)["observedGeneration"] == 2


def test_prepares_last_words_become_model_data_and_steps() -> None:
    words = last_words(
        P,
        steps=42,
        model={"architecture": "Llama", "parameters": 7, "digest": "sha256:a"},
        data={
            "rows": 10,
            "kept": 9,
            "changed": 2,
            "dropped": {"emptyAnswers": 1},
            "reported": {"nearDuplicates": 3},
            "supervisedTokens": 5,
            "warnings": ["82 % of the rows come from one source, a", "2 rows lose their end"],
            "sources": [{"field": "spec.data.train[0]", "format": "Chat", "rows": 10, "kept": 9}],
        },
    )
    status = status_in(P, resolved=make_facts().known_plan.resolved)
    facts = make_facts(
        status, jobs=(make_child_job(P, **COMPLETE),), pods=(ended_pod(0, P, words=words),)
    )
    decided = decide(facts).status
    assert decided["model"]["architecture"] == "Llama"
    assert decided["data"] == {
        "rows": 10,
        "kept": 9,
        "changed": 2,
        "dropped": {"emptyAnswers": 1},
        "reported": {"nearDuplicates": 3},
        "supervisedTokens": 5,
        "warnings": ["82 % of the rows come from one source, a", "2 rows lose their end"],
        "sources": [{"field": "spec.data.train[0]", "format": "Chat", "rows": 10, "kept": 9}],
        "reportPath": "team-a/11111111-2222-3333-4444-555555555555/data/report.html",
        "rejectsPath": "team-a/11111111-2222-3333-4444-555555555555/data/rejects.jsonl",
    }
    assert decided["resolved"]["steps"] == 42
    assert decided["attempt"] == 0
    condition = main_condition(decided, "DatasetValid")
    assert (condition["status"], condition["message"]) == (
        "True",
        "model and data are prepared; worth a look: 82 % of the rows come from one source, a "
        "(and 1 more in status.data.warnings)",
    )


def test_final_numbers_come_from_the_last_words_of_rank_zero_even_if_its_pod_is_gone() -> None:
    metrics = {"loss": 1.25, "evalLoss": 1.5, "perplexity": 4.48, "baseline": {"evalLoss": 2.5}}
    words = last_words(T, step=90, steps=90, metrics=metrics)
    facts = make_facts(ready_gang(), jobs=train(**COMPLETE), evidence=(ended_pod(0, words=words),))
    decided = decide(facts).status
    assert decided["metrics"]["evalLoss"] == "1.5"
    assert decided["metrics"]["baseline"] == {"evalLoss": "2.5"}
    assert decided["progress"]["percent"] == 100


def test_export_repeats_the_numbers_of_a_training_whose_pods_were_lost() -> None:
    words = last_words(
        X,
        artifact={
            "formats": ["Merged"],
            "digest": "sha256:b",
            "bytes": 5,
            "maxLogitDifference": 2e-6,
            "smokeTest": {"prompt": "Who?", "answer": "I, with hf_" + "a" * 34, "tokens": 3},
        },
        train={"metrics": {"loss": 0.5}, "step": 90, "steps": 90},
    )
    facts = make_facts(
        status_in(X), jobs=(make_child_job(X, **COMPLETE),), pods=(ended_pod(0, X, words=words),)
    )
    decided = decide(facts).status
    assert decided["metrics"]["loss"] == "0.5"
    assert decided["artifact"] == {
        "uri": f"pvc://work/team-a/{UID}/output",
        "path": f"team-a/{UID}/output",
        "digest": "sha256:b",
        "bytes": 5,
        "formats": ["Merged"],
        "smokeTest": {"prompt": "Who?", "answer": "I, with [redacted]", "tokens": 3},
        "servingPath": f"team-a/{UID}/output/serving.yaml",
    }
    assert main_condition(decided, "Published")["message"] == (
        "the result was loaded again, compared (logits differ by 2e-06 at most) and asked 'Who?': "
        "it said 'I, with [redacted]'"
    )


def test_the_next_attempt_has_the_next_number_and_its_own_logs() -> None:
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW, job_uid="x")
    decided = decide(make_facts(waiting)).status
    assert decided["attempt"] == 1
    assert "jobUID" not in decided and "nextAttemptTime" not in decided
    assert decided["logs"]["path"].endswith("/attempts/1/logs")


def test_an_attempt_whose_job_was_never_created_keeps_its_number_over_a_suspension() -> None:
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW)
    assert decide(make_facts(waiting)).status["attempt"] == 0


def test_a_resized_gang_is_resolved_anew() -> None:
    spec = make_spec(workers={"count": 4}, training={"microBatchSize": 2})
    waiting = status_in(T, phase=Phase.PENDING, next_attempt_time=NOW, job_uid="x")
    assert decide(make_facts(waiting, spec=spec)).status["resolved"]["worldSize"] == 4


def test_a_gang_that_a_queue_holds_back_has_no_start_deadline() -> None:
    held = make_facts(
        status_in(T), jobs=train(created=NOW - seconds(100_000), suspended=True), pods=()
    )
    decision = decide(held)
    assert judge(held).reason != "StartTimeout"
    assert decision.again_after is None or decision.again_after > 0


def test_the_deadline_is_the_failure_whatever_failed_before() -> None:
    spec = make_spec(activeDeadlineSeconds=60, workers=BRIEF)
    before = Failure(failure_class="Evicted", stage=P, attempt=0, message="gone", at=NOW)
    late = status_in(P, start_time=NOW - seconds(61), failure=before)
    first = decide(make_facts(late, spec=spec, pods=(make_pod(0, P),)))
    assert first.status["failure"]["class"] == "DeadlineExceeded"
    told = FineTuneJobStatus.model_validate(first.status)
    later = make_facts(told, spec=spec, pods=(make_pod(0, P),), now=NOW + seconds(5))
    assert decide(later).status == first.status, "waiting for the pods writes nothing"


def test_start_timeouts_in_a_row_wait_longer_and_longer() -> None:
    pauses = []
    for times in (0, 1, 2, 9):
        late = make_facts(
            status_in(T, start_timeouts=times or None), jobs=train(created=NOW - seconds(4000))
        )
        due = FineTuneJobStatus.model_validate(decide(late).status).next_attempt_time
        assert due is not None
        pauses.append((due - NOW).total_seconds())
    assert pauses == [30, 60, 120, 1800]


def test_the_uid_of_a_job_is_written_along_with_the_next_change_and_not_alone() -> None:
    status = FineTuneJobStatus.model_validate(decide(make_facts(status_in(P))).status)
    created = make_facts(status, jobs=(make_child_job(P),))
    assert decide(created).status == status.wire()
    started = make_facts(status, jobs=(make_child_job(P),), pods=(make_pod(0, P),))
    assert decide(started).status["prepareJobUID"] == "uid-of-demo-p0"


@pytest.mark.parametrize("facts", [row.values[0] for row in ROWS])
def test_creating_deleting_restarting_and_ending_anything_is_irrevocable(facts: Facts) -> None:
    decision, verdict = decide(facts), judge(facts)
    acts = any(action.verb in (Verb.CREATE, Verb.DELETE) for action in verdict.actions)
    ends = verdict.state.terminal and facts.status.completion_time is None
    done = any(
        decision.status.get(name) != facts.job.status.get(name)
        for name in ("prepared", "trained", "scored", "restarts")
    )
    assert decision.irrevocable == (acts or ends or done)


def test_an_event_tells_of_a_change_of_the_reason_and_of_nothing_else() -> None:
    fresh = decide(make_facts())
    assert fresh.event is not None
    assert (fresh.event["reason"], fresh.event["type"]) == ("Accepted", "Normal")
    assert fresh.event["involvedObject"]["uid"] == UID
    stored = FineTuneJobStatus.model_validate(fresh.status)
    assert decide(make_facts(stored, generation=2)).event is None


def test_a_restart_is_one_warning_event_and_its_draining_is_none() -> None:
    pods = (ended_pod(1, code=71, words=CUDA_OOM),)
    going = decide(make_facts(ready_gang(), jobs=train(**FAILING), pods=pods))
    assert going.event is None
    drained = FineTuneJobStatus.model_validate(going.status)
    event = decide(make_facts(drained, jobs=train(**FAILED), pods=pods)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "Restarting")
    assert event["message"].startswith("trying again in 5 s (with less memory in use: microBatch")


def test_a_failure_is_a_warning_event() -> None:
    event = decide(make_facts(spec={})).event
    assert event is not None and event["type"] == "Warning"


def test_the_same_transition_makes_an_event_of_the_same_name() -> None:
    names = {decide(make_facts(now=NOW + seconds(n))).event["metadata"]["name"] for n in (0, 99)}  # type: ignore[index]
    assert len(names) == 1
    assert re.fullmatch(rf"{KEY.name}\.[0-9a-f]{{16}}", names.pop())


def test_the_deadline_wakes_the_job_up() -> None:
    facts = make_facts(
        ready_gang(), jobs=train(), pods=GANG, spec=make_spec(activeDeadlineSeconds=160)
    )
    assert decide(facts).again_after == pytest.approx(60.5)


def test_long_texts_are_cut_to_what_the_api_takes() -> None:
    words = failure_words(message="x" * 5000, lines=["y" * 5000] * 50)
    facts = make_facts(
        ready_gang(), jobs=train(**FAILED), pods=(ended_pod(1, code=71, words=words),)
    )
    failure = decide(facts).status["failure"]
    assert len(failure["message"]) <= 1024
    assert len(failure["lines"]) <= 20 and max(map(len, failure["lines"])) <= 1024


def test_all_reasons_are_in_the_vocabulary() -> None:
    from finetune_operator.api.conditions import REASONS

    used = {str(judge(row.values[0]).reason) for row in ROWS}
    assert used - {"Failed"} <= REASONS
    assert Reason.STARTING in used


@pytest.mark.parametrize(("wish", "told"), [("Keep", True), ("Delete", False)])
def test_checkpoints_that_went_with_success_are_not_told_any_more(wish: str, told: bool) -> None:
    saved = Checkpoints(latest=LatestCheckpoint(step=5, bytes=1, verified=True))
    through = status_in(X, phase=Phase.EXPORTING, checkpoints=saved)
    spec = make_spec(checkpoint={"afterSuccess": wish})
    ended = decide(make_facts(through, jobs=(make_child_job(X, **COMPLETE),), spec=spec))
    assert ended.status["phase"] == "Succeeded"
    assert ("checkpoints" in ended.status) == told


def test_a_gang_resized_to_a_misfit_waits_for_a_better_number_and_is_not_lost() -> None:
    begun = status_in(T, phase=Phase.SUSPENDED, resolved=Resolved(global_batch_size=16))
    spec = make_spec(workers={"count": 3}, training={"steps": 1, "globalBatchSize": None})
    decision = decide(make_facts(begun, spec=spec))
    assert main_condition(decision.status)["reason"] == "BatchDoesNotFit"
    assert main_condition(decision.status, "Stalled")["status"] == "True"
    assert "completionTime" not in decision.status
    better = make_spec(workers={"count": 4}, training={"steps": 1, "globalBatchSize": None})
    assert (
        main_condition(decide(make_facts(begun, spec=better)).status)["reason"] != "BatchDoesNotFit"
    )
