"""Rows of the first rules: the job, its stage or its attempt is over."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
    status_in,
)
from unit.operator.status.cases import (
    COMPLETE,
    CUDA_OOM,
    DEADLINE,
    FAILED,
    FAILING,
    GANG,
    LOST,
    ONCE,
    SILENT,
    SUSPEND,
    P,
    S,
    T,
    X,
    ready_gang,
    train,
)

from finetune_operator.api.types import Phase, Progress, Restarts
from finetune_operator.observed import Termination
from finetune_operator.policies.facts import State

TTL = make_spec(ttlSecondsAfterFinished=60)
SCORED = make_spec(evaluation={"generation": {"scorers": [{"name": "polite", "image": "a:1"}]}})
SAID = Termination(0, "Completed", '{"tuned": {"tone": 0.9}}', NOW)
ENDED: list[Any] = [
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
    pytest.param(
        make_facts(ready_gang(), jobs=train(), pods=(ended_pod(1, code=71), ended_pod(0, code=74))),
        ("job_failed", Phase.RESTARTING, State.MOVING, "Restarting", ""),
        id="all pods of a gang have ended: its Job need not say so",
    ),
    pytest.param(
        make_facts(
            ready_gang(),
            jobs=train(),
            pods=(ended_pod(1, code=71), ended_pod(0, code=74)),
            spec=ONCE,
        ),
        ("job_failed", Phase.FAILED, State.FAILED, "CudaOom", ""),
        id="nor at the end of the job",
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
]
