"""Elastic gangs: without room for all of their pods, or training for a while."""

from __future__ import annotations

import json
from typing import Any

from builders import (
    NOW,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    pending_pod,
    seconds,
    status_in,
)

from finetune_operator.api.types import (
    Condition,
    Phase,
    Progress,
    Resize,
    Resolved,
    Restarts,
    StageName,
)
from finetune_operator.policies.facts import Facts
from finetune_operator.reports import read_progress

T = StageName.TRAIN
SHRINK, GROW = 60, 600
NO_NODE = ("Unschedulable", "0/3 nodes are available: 1 Insufficient nvidia.com/gpu.", NOW)


def spec(count: int = 4, *, batch: int = 48, queue: Any = None, **bounds: Any) -> dict[str, Any]:
    """Four workers with one rank each, one at least; the micro-batch is 1."""
    limits = {"min": 1, "shrinkAfterSeconds": SHRINK, "growAfterSeconds": GROW, **bounds}
    return make_spec(
        training={"globalBatchSize": batch, "microBatchSize": 1},
        workers={"count": count},
        checkpoint={"everySteps": 10},
        recovery={"elastic": limits},
        queue=queue,
    )


def resize(before: int, after: int, *, step: int = 0, ago: float = 3000, **fields: Any) -> Resize:
    known = {"attempt": 0, "wanted": 4, "reason": "1 of 4 pods cannot be scheduled"}
    return Resize(
        workers_before=before,
        workers=after,
        step=step,
        at=NOW - seconds(ago),
        **{**known, **fields},
    )


def resolved(*resizes: Resize, **fields: Any) -> Resolved:
    return Resolved(global_batch_size=48, resizes=resizes or None, **fields)


def unplaced(placed: int, of: int, *, age: float = SHRINK, **job: Any) -> dict[str, Any]:
    """A gang of which some pods have a node; ``age``: seconds since it was asked for."""
    up = tuple(make_pod(n, created=NOW - seconds(age)) for n in range(placed))
    rest = (
        pending_pod(n, unscheduled=NO_NODE, created=NOW - seconds(age)) for n in range(placed, of)
    )
    made = make_child_job(T, parallelism=of, created=NOW - seconds(age), **job)
    return {"jobs": (made,), "pods": (*up, *rest)}


def trains(
    *resizes: Resize,
    wish: dict[str, Any] | None = None,
    ready: float = GROW,
    step: int = 40,
    eta: int | None = 100_000,
    restarts: Restarts | None = None,
    heard: float = 0,
    **facts: Any,
) -> Facts:
    """A gang of the last resize that has been whole for ``ready`` seconds."""
    gang = Condition(
        type="GangReady",
        status="True",
        reason="Training",
        message="",
        last_transition_time=NOW - seconds(ready),
    )
    status = status_in(
        T,
        phase=Phase.TRAINING,
        conditions=(gang,),
        resolved=resolved(*resizes),
        restarts=restarts or Restarts(resizes=len(resizes)),
        progress=Progress(stage=T, step=step, steps=9000, eta_seconds=eta),
    )
    size = resizes[-1].workers if resizes else (wish or spec())["workers"]["count"]
    assert size
    known: dict[str, Any] = {
        "jobs": (make_child_job(T, parallelism=size),),
        "pods": tuple(make_pod(n) for n in range(size)),
        "progress": read_progress(
            json.dumps({"attempt": 0, "step": step, "updatedAt": NOW.timestamp() - heard}).encode()
        ),
        "heard": heard,
    }
    return make_facts(status, spec=wish or spec(), **{**known, **facts})
