"""What really happened to each FineTuneJob, told by the writes of all who had a hand in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.audit import ATTEMPT_LABEL, STAGE_LABEL, UID_LABEL, Raw, Write

GARBAGE_COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"
NODE_CONTROLLER = "system:serviceaccount:kube-system:node-controller"
COUNTERS = {
    "prepare": "prepareAttempt",
    "train": "attempt",
    "score": "scoreAttempt",
    "export": "exportAttempt",
}
"""Field of the status that has a stage's present attempt."""


@dataclass
class Pod:
    """A pod from its creation until nothing of it runs any more."""

    name: str
    job_uid: str
    began: int
    ended: int | None = None
    silent: int | None = None
    """Kubernetes took its readiness, because its node did not answer: it may run on for ever."""

    @property
    def gone(self) -> int | None:
        """Since when it counts for nobody any more."""
        return min(filter(None, (self.ended, self.silent)), default=None)


@dataclass
class KubernetesJob:
    """One attempt of a stage."""

    uid: str
    name: str
    stage: str
    attempt: int
    owners: tuple[str, ...]
    """UIDs of its owners."""
    began: int
    failed: int | None = None
    complete: int | None = None
    deleted: int | None = None
    deleted_by: str = ""

    @property
    def finished(self) -> bool:
        return self.failed is not None or self.complete is not None


@dataclass(frozen=True)
class StatusWrite:
    revision: int
    user: str
    status: Raw


@dataclass
class Life:
    """One FineTuneJob, from its creation to its deletion."""

    namespace: str
    name: str
    uid: str
    began: int
    deleted: int | None = None
    statuses: list[StatusWrite] = field(default_factory=list)
    revision: int = 0
    """Of the object, after the last write that was answered."""
    unanswered: list[Write] = field(default_factory=list)
    """Status writes whose sender died: they were carried out if a later write set out from them."""
    jobs: dict[str, KubernetesJob] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    children: list[tuple[int, str, Raw]] = field(default_factory=list)
    """Revision, kind and object of everything that was created for it, pods left out."""

    @property
    def status(self) -> Raw:
        """The last one."""
        return self.statuses[-1].status if self.statuses else {}

    @property
    def ended(self) -> StatusWrite | None:
        """The write that said that it is over."""
        return next((s for s in self.statuses if "completionTime" in s.status), None)

    def status_at(self, revision: int) -> Raw:
        """The status as it was when this revision came."""
        before = [s.status for s in self.statuses if s.revision < revision]
        return before[-1] if before else {}

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def lives(history: Iterable[Write]) -> list[Life]:
    """The FineTuneJobs that were created in this history, in their order."""
    found: dict[str, Life] = {}
    jobs: dict[str, KubernetesJob] = {}
    pods: dict[str, Pod] = {}
    asked_for: set[tuple[str, str, str]] = set()  # created by somebody who died before the answer
    for write in history:
        meta = write.after.get("metadata") or {}
        labels = meta.get("labels") or {}
        uid = meta.get("uid", "")
        kind = write.kind.partition("/")[0]
        place = (kind, write.namespace, write.name)
        if not write.answered:
            if write.kind == "finetunejobs/status" and uid in found:
                found[uid].unanswered.append(write)
            elif write.verb == "create":
                asked_for.add(place)
            continue
        born = write.verb == "create" or place in asked_for
        if kind == "finetunejobs":
            _finetune_job(found, write, uid)
        elif (life := found.get(labels.get(UID_LABEL, ""))) and born:
            asked_for.discard(place)
            if kind == "pods":
                pods[uid] = life.pods[uid] = Pod(write.name, _controller(meta), write.revision)
            else:
                life.children.append((write.revision, kind, write.after))
                if kind == "jobs":
                    jobs[uid] = life.jobs[uid] = _job(write, meta, labels)
        if write.kind.startswith("pods") and uid in pods:
            _follow_pod(pods[uid], write)
        if write.kind.startswith("jobs"):
            gone = (write.after.get("details") or {}).get("uid", "")  # of a Status
            if job := jobs.get(uid or gone):
                _follow_job(job, write)
    return list(found.values())


def _finetune_job(found: dict[str, Life], write: Write, uid: str) -> None:
    if write.verb == "delete":
        uid = uid or (write.after.get("details") or {}).get("uid", "")
        if uid in found:
            found[uid].deleted = write.revision
    elif uid and uid not in found:
        found[uid] = Life(write.namespace, write.name, uid, write.revision)
    if uid not in found:
        return
    life = found[uid]
    if write.base > life.revision > 0:
        life.statuses += [
            StatusWrite(write.base, lost.user, lost.after.get("status") or {})
            for lost in life.unanswered
            if lost.base == life.revision
        ]
    if write.kind == "finetunejobs/status":
        status = write.after.get("status") or {}
        life.statuses.append(StatusWrite(write.revision, write.user, status))
    life.revision = write.revision


def _job(write: Write, meta: Raw, labels: Raw) -> KubernetesJob:
    return KubernetesJob(
        uid=meta["uid"],
        name=meta["name"],
        stage=labels.get(STAGE_LABEL, ""),
        attempt=int(labels.get(ATTEMPT_LABEL, "-1")),
        owners=owners(meta),
        began=write.revision,
    )


def _follow_job(job: KubernetesJob, write: Write) -> None:
    if write.verb == "delete":
        if job.deleted is None:
            job.deleted, job.deleted_by = write.revision, write.user
        return
    conditions = (write.after.get("status") or {}).get("conditions") or []
    true = {c["type"] for c in conditions if c.get("status") == "True"}
    if "Failed" in true and job.failed is None:
        job.failed = write.revision
    if "Complete" in true and job.complete is None:
        job.complete = write.revision


def _follow_pod(pod: Pod, write: Write) -> None:
    meta, status = write.after["metadata"], write.after.get("status") or {}
    over = status.get("phase") in ("Succeeded", "Failed")
    # Only a kubelet that has ended the containers, or nobody at all, deletes without a grace.
    let_go = "deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds") == 0
    if pod.ended is None and (over or let_go):
        pod.ended = write.revision
    if pod.silent is None and write.user == NODE_CONTROLLER and _unready(status):
        pod.silent = write.revision


def _unready(status: Raw) -> bool:
    conditions = status.get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "False" for c in conditions)


def owners(meta: Raw) -> tuple[str, ...]:
    """UIDs of the owners of an object."""
    return tuple(owner["uid"] for owner in meta.get("ownerReferences") or ())


def _controller(meta: Mapping[str, Any]) -> str:
    return next((o["uid"] for o in meta.get("ownerReferences") or () if o.get("controller")), "")


def label(raw: Raw, name: str) -> str:
    return str((raw["metadata"].get("labels") or {}).get(name, ""))
