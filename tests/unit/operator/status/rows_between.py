"""Rows of the rules for what is left of an attempt: lost, vanished, or of an older one."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, ended_pod, make_child_job, make_facts, make_pod, seconds, status_in
from unit.operator.status.cases import (
    FAILED,
    GANG,
    LOST,
    ONCE,
    OVERDUE,
    SILENT,
    TRAINS,
    P,
    T,
    ready_gang,
    restarting,
    train,
)

from finetune_operator.api.types import Failure, Phase
from finetune_operator.policies.facts import State

BETWEEN: list[Any] = [
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
]
