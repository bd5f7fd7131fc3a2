"""Rows of the rules that stop a gang that could go on, and that take it up again."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, make_facts, make_pod, seconds, status_in
from unit.operator.status.cases import (
    DEADLINE,
    ELASTIC,
    FAILED,
    GANG,
    ON_GPUS,
    OVERDUE,
    SUSPEND,
    TRAINS,
    T,
    condition,
    ready_gang,
    restarting,
    small_gang,
    train,
)

from finetune_operator.api.types import Phase
from finetune_operator.policies.facts import NamespaceBudget, State

NO_HOURS = NamespaceBudget(0.0, 0)
NEWS = TRAINS and TRAINS.model_copy(update={"step": 40})

STOPPED: list[Any] = [
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
        ("evicted", Phase.RESTARTING, State.MOVING, "Draining", "delete Job demo-a0"),
        id="its pods save, and its Job goes",
    ),
]
