"""Jobs in the states that the rules are tried with."""

from __future__ import annotations

import json
from typing import Any

from builders import NOW, failure_words, make_child_job, make_pod, make_spec, seconds, status_in

from finetune_operator.api.types import (
    Condition,
    FineTuneJobStatus,
    Phase,
    Progress,
    Resize,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.reports import read_progress

P, T, S, X = StageName.PREPARE, StageName.TRAIN, StageName.SCORE, StageName.EXPORT
SUSPEND = make_spec(suspend=True)
BRIEF = {"terminationGracePeriodSeconds": 30}
DEADLINE = make_spec(activeDeadlineSeconds=90, workers=BRIEF)
ONCE = make_spec(recovery={"maxRestarts": 0, "maxInfrastructureRestarts": 0})
ON_GPUS = make_spec(workers={"ranksPerWorker": None, "gpusPerWorker": 2})
COMPLETE = {"complete": True}
FAILED = {"failure": ("BackoffLimitExceeded", "too many failures")}
FAILING = {"failing": ("BackoffLimitExceeded", "too many failures")}
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
ELASTIC = make_spec(recovery={"elastic": {"min": 1}})
