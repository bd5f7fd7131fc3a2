"""Rows of the last rules: the pods of a stage come up and run."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, make_child_job, make_facts, make_pod, pending_pod, seconds, status_in
from unit.operator.status.cases import (
    DEADLINE,
    ELASTIC,
    GANG,
    LOST,
    SILENT,
    TRAINS,
    P,
    T,
    X,
    ready_gang,
    train,
)

from finetune_operator.api.types import Phase
from finetune_operator.policies.facts import State
from finetune_operator.reports import read_progress

NO_NODE = ("Unschedulable", "0/1 nodes are available", NOW)

RUNNING: list[Any] = [
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
            jobs=train(created=NOW - seconds(1801), deleting=True),
            pods=(make_pod(0, deleting=True), make_pod(1, deleting=True)),
        ),
        ("pods_not_ready", Phase.STARTING, State.MOVING, "Starting", ""),
        id="a gang that is on its way out is not late",
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
