"""Rows of the rules for what has to be there before a stage can have its Job."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_child_job, make_facts, make_spec, status_in
from unit.operator.status.cases import ON_GPUS, P, T, X

from finetune_operator.api.types import HumanEvaluation, MemoryStatus, Phase, Resolved
from finetune_operator.policies.facts import NamespaceBudget, Obstacle, State
from finetune_operator.policies.ratings import Ratings

ASKS_PEOPLE = make_spec(
    evaluation={"generation": {}, "human": {}}, gate={"human": {"minWinRate": "0.6"}}
)
HELD = status_in(X, export_attempt=1, human_evaluation=HumanEvaluation(bundle="sha256:ab", items=9))

AWAITED: list[Any] = [
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
        make_facts(obstacle=Obstacle("Forbidden", "give the role the verb get", stalled=True)),
        ("obstructed", Phase.PENDING, State.STUCK, "Forbidden", ""),
        id="what the operator may not read is told",
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
]
