"""Short ways to make the objects that tests talk about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.types import FineTuneJobStatus, StageName
from finetune_operator.engine.store import Key
from finetune_operator.errors import Fault, InvalidSpec
from finetune_operator.observed import (
    Admission,
    ChildJob,
    ChildPod,
    Observed,
    StoredJob,
    Termination,
)
from finetune_operator.plan import Platform, TrainingPlan, plan_training, stage_job_name
from finetune_operator.policies.facts import Facts, NamespaceBudget, Obstacle
from finetune_operator.reading import read_job
from finetune_operator.reports import ProgressReport
from finetune_operator.settings import Settings
from finetune_operator.sources import ResolvedOutput

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
KEY = Key("team-a", "demo")
UID = "11111111-2222-3333-4444-555555555555"
PLATFORM = Platform(Settings(trainer_image="example.test/trainer:1"))


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch: nested fields are merged, null removes."""
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


def make_spec(**patch: Any) -> dict[str, Any]:
    """A small spec: LoRA, two CPU workers, files on the claim ``work``."""
    base = {
        "model": {"uri": "pvc://models/small"},
        "data": {"train": [{"name": "rows", "uri": "pvc://datasets/rows.jsonl"}]},
        "method": {"lora": {}},
        "training": {"steps": 90, "globalBatchSize": 16, "microBatchSize": 2},
        "workers": {"count": 2, "ranksPerWorker": 1},
        "storage": {"claimRef": {"name": "work"}},
    }
    return merged(base, patch)


def make_job(
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    *,
    generation: int = 1,
    deleting: bool = False,
    uid: str = UID,
) -> StoredJob:
    meta = {
        "namespace": KEY.namespace,
        "name": KEY.name,
        "uid": uid,
        "resourceVersion": "1",
        "generation": generation,
        "creationTimestamp": "2026-11-23T11:59:00Z",
        **({"deletionTimestamp": "2026-11-23T11:59:30Z"} if deleting else {}),
    }
    return read_job(
        {
            "metadata": meta,
            "spec": make_spec() if spec is None else spec,
            "status": {"observedGeneration": -1} if status is None else status,
        }
    )


def make_plan(
    spec: Mapping[str, Any] | None = None,
    status: FineTuneJobStatus | None = None,
    platform: Platform = PLATFORM,
    outputs: Mapping[str, ResolvedOutput] | None = None,
) -> TrainingPlan:
    wish = make_spec() if spec is None else spec
    return plan_training(KEY, UID, wish, status or FineTuneJobStatus(), platform, outputs or {})


def make_child_job(stage: StageName = StageName.TRAIN, attempt: int = 0, **fields: Any) -> ChildJob:
    name = stage_job_name(KEY, stage, attempt)
    known: dict[str, Any] = {
        "key": KEY,
        "name": name,
        "uid": f"uid-of-{name}",
        "version": 1,
        "owner_uid": UID,
        "stage": stage.value,
        "attempt": attempt,
        "created": NOW - seconds(30),
        "parallelism": 2 if stage is StageName.TRAIN else 1,
        "failed": 0,
        "deleting": False,
        "started": None,
        "suspended": False,
        "complete": False,
        "failure": None,
        "failing": None,
    }
    return ChildJob(**{**known, **fields})


def make_pod(
    index: int = 0, stage: StageName = StageName.TRAIN, attempt: int = 0, **fields: Any
) -> ChildPod:
    """A pod that runs and is ready. ``deleting=True``: somebody has just asked it to go."""
    if fields.pop("deleting", False):
        fields["due"] = NOW + seconds(30)
    job = stage_job_name(KEY, stage, attempt)
    known: dict[str, Any] = {
        "key": KEY,
        "name": f"{job}-{index}-abcde",
        "uid": f"uid-of-{job}-{index}",
        "version": 1,
        "job_uid": f"uid-of-{job}",
        "owner_uid": UID,
        "stage": stage.value,
        "attempt": attempt,
        "index": index,
        "created": NOW - seconds(25),
        "phase": "Running",
        "ready": True,
        "silent": None,
        "due": None,
        "node": f"n{index + 1}",
        "ip": f"10.0.0.{index + 1}",
        "image": "example.test/trainer:1",
        "image_id": "",
        "unscheduled": None,
        "waiting": None,
        "terminated": None,
        "scheduled": NOW - seconds(20),
        "disruption": "",
    }
    return ChildPod(**{**known, **fields})


def pending_pod(index: int = 0, stage: StageName = StageName.TRAIN, **fields: Any) -> ChildPod:
    """A pod without a node and without a word about why."""
    bare = {"phase": "Pending", "ready": False, "node": "", "ip": "", "scheduled": None}
    return make_pod(index, stage, **{**bare, **fields})


def ended_pod(
    index: int = 0,
    stage: StageName = StageName.TRAIN,
    *,
    code: int = 0,
    words: Mapping[str, Any] | str | None = None,
    reason: str = "",
    after: float = 0,
    **fields: Any,
) -> ChildPod:
    """A pod whose container ended, with its termination message."""
    message = words if isinstance(words, str) else json.dumps(words) if words else ""
    ended = Termination(
        exit_code=code,
        reason=reason or ("Completed" if code == 0 else "Error"),
        message=message,
        finished=NOW - seconds(10 - after),
    )
    phase = "Succeeded" if code == 0 else "Failed"
    return make_pod(index, stage, **{"phase": phase, "ready": False, "terminated": ended, **fields})


def last_words(
    stage: StageName, outcome: str = "succeeded", attempt: int = 0, **fields: Any
) -> dict[str, Any]:
    return {"stage": stage.value, "attempt": attempt, "outcome": outcome, **fields}


def failure_words(stage: StageName = StageName.TRAIN, **failure: Any) -> dict[str, Any]:
    return last_words(stage, "failed", failure=failure)


def status_in(stage: StageName, **fields: Any) -> FineTuneJobStatus:
    """The status of a job whose attempt 0 of ``stage`` is written ahead."""
    known: dict[str, Any] = {"start_time": NOW - seconds(100), "prepare_attempt": 0}
    known["observed_generation"] = 1
    if stage is not StageName.PREPARE:
        known |= {"prepared": NOW - seconds(60), "attempt": 0}
    if stage is StageName.SCORE:
        known |= {"trained": NOW - seconds(40), "score_attempt": 0}
    if stage is StageName.EXPORT:
        known |= {"trained": NOW - seconds(40), "export_attempt": 0}
    return FineTuneJobStatus(**{**known, **fields})


def make_facts(
    status: FineTuneJobStatus | None = None,
    *,
    jobs: tuple[ChildJob, ...] = (),
    pods: tuple[ChildPod, ...] = (),
    evidence: tuple[ChildPod, ...] = (),
    warning: tuple[str, str] | None = None,
    admission: Admission | None = None,
    unbound: tuple[str, ...] = (),
    spec: Mapping[str, Any] | None = None,
    now: datetime = NOW,
    obstacle: Obstacle | None = None,
    refusal: Obstacle | None = None,
    progress: ProgressReport | None = None,
    heard: float = 10,
    namespace_budget: NamespaceBudget | None = None,
    deleting: bool = False,
    generation: int = 1,
    **others: Any,
) -> Facts:
    """Facts as a pass would gather them. ``heard``: seconds since the last new sign of life."""
    known = status or FineTuneJobStatus()
    wish = make_spec() if spec is None else spec
    plan: TrainingPlan | None = None
    faults: tuple[Fault, ...] = ()
    try:
        plan = make_plan(wish, known)
    except InvalidSpec as error:
        faults = error.faults
    return Facts(
        job=make_job(wish, known.wire(), deleting=deleting, generation=generation),
        status=known,
        plan=plan,
        faults=faults,
        observed=Observed(jobs, pods, evidence, warning, admission, unbound),
        now=now,
        obstacle=obstacle,
        refusal=refusal,
        progress=progress,
        heard=now - seconds(heard) if progress else None,
        namespace_budget=namespace_budget,
        **others,
    )


def main_condition(status: Mapping[str, Any], name: str = "Reconciling") -> dict[str, Any]:
    """A condition of a stored status."""
    found: dict[str, Any] = next(c for c in status["conditions"] if c["type"] == name)
    return found
