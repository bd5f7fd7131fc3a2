"""Raw objects of the API server, cut down to what decisions look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .api.types import KIND, StageName
from .engine.store import Key
from .objects.labels import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL, STAGE_LABEL, UID_LABEL
from .observed import Admission, ChildJob, ChildPod, Raw, StoredJob, Termination, pack

MAX_TEXT = 1024
_OVERFULL = re.compile(
    r"Pod ephemeral local storage usage exceeds the total limit of containers "
    r"|Container \S{1,63} exceeded its local ephemeral storage limit "
    r'|Usage of EmptyDir volume "[^"]{1,63}" exceeds the limit '
)
"""How the kubelet begins to say that a pod is evicted for what it used itself. Where the node is
short, it begins with "The node" (pkg/kubelet/eviction/helpers.go of Kubernetes 1.36)."""


def read_job(raw: Raw) -> StoredJob:
    """A FineTuneJob. Spec and status may hold anything: they are judged later."""
    meta, status = raw["metadata"], raw.get("status") or {}
    return StoredJob(
        key=Key(meta["namespace"], meta["name"]),
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        generation=int(meta.get("generation", 1)),
        created=_time(meta.get("creationTimestamp")),
        deleting="deletionTimestamp" in meta,
        packed_spec=pack(raw.get("spec") or {}),
        packed_status=pack(status),
        phase=str(status.get("phase", "")),
        finished="completionTime" in status,
        gpu_seconds=_gpu_seconds(status.get("goodput")),
    )


def read_child_job(raw: Raw) -> ChildJob:
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    true = {
        condition["type"]: (condition.get("reason", ""), condition.get("message", "")[:MAX_TEXT])
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }
    return ChildJob(
        key=_key(meta),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner_uid=_owner(meta, KIND),
        stage=_label(meta, STAGE_LABEL),
        attempt=_integer(_label(meta, ATTEMPT_LABEL)),
        created=_time(meta.get("creationTimestamp")),
        parallelism=spec.get("parallelism", 1),
        failed=status.get("failed") or 0,
        deleting="deletionTimestamp" in meta,
        started=_time(status["startTime"]) if status.get("startTime") else None,
        suspended=bool(spec.get("suspend")),
        complete="Complete" in true,
        failure=true.get("Failed"),
        failing=true.get("FailureTarget"),
    )


def read_admission(workloads: Iterable[Raw]) -> Admission:
    """The Workloads of one Job; more than one only while Kueue replaces the first."""
    newest = max(workloads, key=lambda raw: str(raw["metadata"]["creationTimestamp"]), default=None)
    if newest is None:
        return Admission()
    conditions = {
        condition["type"]: condition
        for condition in (newest.get("status") or {}).get("conditions") or ()
    }
    quota, evicted = conditions.get("QuotaReserved", {}), conditions.get("Evicted", {})
    return Admission(
        known=True,
        waiting=quota.get("message", "")[:MAX_TEXT] if quota.get("status") == "False" else "",
        evicted=(evicted.get("reason", ""), evicted.get("message", "")[:MAX_TEXT])
        if evicted.get("status") == "True"
        else None,
    )


def read_child_pod(raw: Raw) -> ChildPod:
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    containers: list[Raw] = list(status.get("containerStatuses") or ())
    container: Raw = containers[0] if containers else {}
    ends = [_termination(_state(each).get("terminated")) for each in containers]
    beginners: list[Raw] = list(status.get("initContainerStatuses") or ())
    stuck, stuck_end = _failed_beginner(beginners)
    begins = any(_state(each).get("running") for each in beginners)
    scores = _label(meta, STAGE_LABEL) == StageName.SCORE.value
    overfull = _overfull(status)
    return ChildPod(
        key=_key(meta),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        job_uid=_owner(meta, "Job"),
        owner_uid=_label(meta, UID_LABEL),
        stage=_label(meta, STAGE_LABEL),
        attempt=_integer(_label(meta, ATTEMPT_LABEL)),
        index=_integer(_label(meta, INDEX_LABEL)),
        created=_time(meta.get("creationTimestamp")),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True" or begins,
        silent=_silent(conditions),
        due=_time(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        image=_image(spec),
        image_id=str(container.get("imageID", ""))[:MAX_TEXT],
        unscheduled=_unscheduled(conditions.get("PodScheduled", {})),
        waiting=_first_waiting([*beginners, *containers]),
        terminated=stuck_end or _of_all(ends),
        scheduled=_scheduled(conditions.get("PodScheduled", {})),
        acknowledged=_time(status["startTime"]) if status.get("startTime") else None,
        disruption="" if overfull else _disruption(conditions.get("DisruptionTarget", {}), status),
        ended=tuple(
            (str(each.get("name", "")), end)
            for each, end in zip(containers, ends, strict=True)
            if end is not None and scores
        ),
        stuck_in=stuck,
        overdue=status.get("reason") == "DeadlineExceeded",
        overfull=overfull,
    )


def _state(container: Raw) -> Raw:
    state: Raw = container.get("state") or {}
    return state


def _first_waiting(containers: list[Raw]) -> tuple[str, str] | None:
    """Of the first container that does not run yet; those of the beginning run before the rest."""
    states = (_state(each).get("waiting") for each in containers)
    return next((_waiting(state) for state in states if state), None)


def _failed_beginner(beginners: list[Raw]) -> tuple[str, Termination | None]:
    for each in beginners:
        end = _termination(_state(each).get("terminated"))
        if end is not None and end.exit_code != 0:
            return str(each.get("name", "")), end
    return "", None


def _of_all(ends: list[Termination | None]) -> Termination | None:
    known = [end for end in ends if end is not None]
    if not known or len(known) < len(ends):
        return None
    return next((end for end in known if end.exit_code != 0), known[0])


def _gpu_seconds(account: Any) -> int:
    count = account.get("gpuSeconds") if isinstance(account, Mapping) else None
    return count if isinstance(count, int) else 0


def _key(meta: Raw) -> Key:
    return Key(meta["namespace"], _label(meta, JOB_LABEL))


def _label(meta: Raw, name: str) -> str:
    value = (meta.get("labels") or {}).get(name, "")
    return value if isinstance(value, str) else ""


def _owner(meta: Raw, kind: str) -> str:
    owners: Iterable[Raw] = meta.get("ownerReferences") or ()
    return next((o["uid"] for o in owners if o.get("kind") == kind and o.get("controller")), "")


def _image(spec: Raw) -> str:
    containers: list[Raw] = spec.get("containers") or []
    return str(containers[0].get("image", "")) if containers else ""


def _integer(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)


def _silent(conditions: Mapping[str, Raw]) -> datetime | None:
    """Where a node does not answer, Kubernetes takes Ready from its pods, gives no reason, and
    leaves the kubelet's last word on the containers as it was (``MarkPodsNotReady`` of its node
    controller). Nothing else looks like that."""
    ready, containers = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    taken = ready.get("status") == "False" and not ready.get("reason")
    if not taken or containers.get("status") != "True":
        return None
    return _time(ready.get("lastTransitionTime"))


def _unscheduled(condition: Raw) -> tuple[str, str, datetime] | None:
    if condition.get("status") != "False":
        return None
    reason, message = condition.get("reason", ""), condition.get("message", "")[:MAX_TEXT]
    return reason, message, _time(condition.get("lastTransitionTime"))


def _scheduled(condition: Raw) -> datetime | None:
    known = condition.get("status") == "True" and condition.get("lastTransitionTime")
    return _time(condition["lastTransitionTime"]) if known else None


def _waiting(state: Raw | None) -> tuple[str, str] | None:
    if state is None:
        return None
    return state.get("reason", ""), state.get("message", "")[:MAX_TEXT]


def _termination(state: Raw | None) -> Termination | None:
    if state is None:
        return None
    return Termination(
        exit_code=state.get("exitCode", 0),
        reason=state.get("reason", ""),
        message=state.get("message", ""),
        finished=_time(state["finishedAt"]) if state.get("finishedAt") else None,
    )


def _overfull(status: Raw) -> str:
    said = str(status.get("message", ""))[:MAX_TEXT].strip()
    return said if status.get("reason") == "Evicted" and _OVERFULL.match(said) else ""


def _disruption(condition: Raw, status: Raw) -> str:
    if condition.get("status") == "True":
        return str(condition.get("reason", "")) or "Disrupted"
    return "Evicted" if status.get("reason") == "Evicted" else ""
