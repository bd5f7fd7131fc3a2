"""A hand-made audit log: the life of a job, request by request."""

from __future__ import annotations

import itertools
from typing import Any

from faults.audit import read_writes
from faults.history import Life, lives

OPERATOR = "operator"
CONTROLLER = "system:serviceaccount:kube-system:job-controller"
NODES = "system:serviceaccount:kube-system:node-controller"
KUBELET = "system:node:n1"
UID = "uid-demo"


class Log:
    """Each method is a request that the API server took."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._revisions = itertools.count(10)
        self._object = 0
        """Revision of the FineTuneJob."""
        self._jobs: dict[str, dict[str, Any]] = {}
        """Metadata of each Job that was created."""

    def lives(self) -> list[Life]:
        return lives(read_writes(self.entries))

    def finetune_job(self, name: str = "demo", uid: str = UID) -> None:
        self._add("user", "create", "finetunejobs", {"name": name, "uid": uid})

    def deleted(self, name: str = "demo", uid: str = UID) -> None:
        gone = deletion(uid)
        self._entry("user", "delete", "finetunejobs", name, gone)

    def status(
        self, user: str = OPERATOR, name: str = "demo", uid: str = UID, **fields: Any
    ) -> None:
        meta = {"name": name, "uid": uid}
        self._add(user, "update", "finetunejobs/status", meta, status=fields)

    def status_unanswered(self, *, carried_out: bool, **fields: Any) -> None:
        """The operator was killed while it waited for the answer to a write of the status."""
        self._entry(OPERATOR, "update", "finetunejobs/status", "demo", {})
        meta = {"name": "demo", "uid": UID, "resourceVersion": str(self._object)}
        self.entries[-1] |= {
            "responseStatus": {"code": 504, "message": "Timeout: … - context canceled"},
            "requestObject": {"metadata": meta, "status": fields},
        }
        if carried_out:
            self._object = next(self._revisions)

    def job(
        self, name: str, stage: str, attempt: int, owner: str = UID, job: str = "demo", **again: str
    ) -> str:
        uid = again.get("uid", f"job-{name}")
        self._jobs[name] = {
            "name": name,
            "uid": uid,
            "labels": {
                "finetune.dev/job": job,
                "finetune.dev/uid": again.get("label", owner),
                "finetune.dev/stage": stage,
                "finetune.dev/attempt": str(attempt),
            },
            "ownerReferences": [{"uid": owner, "controller": True}],
        }
        self._add(OPERATOR, "create", "jobs", self._jobs[name])
        return uid

    def job_unanswered(self, name: str, stage: str, attempt: int) -> None:
        """The operator was killed while it waited for the answer to the creation of a Job."""
        self.job(name, stage, attempt)
        self.entries[-1] |= {
            "responseStatus": {"code": 504, "message": "Timeout: … - context canceled"},
            "requestObject": {"metadata": {"name": name}},
            "responseObject": {"kind": "Status", "metadata": {}},
        }

    def job_is(self, condition: str, name: str) -> None:
        told = {"conditions": [{"type": condition, "status": "True"}]}
        self._add(CONTROLLER, "update", "jobs/status", self._jobs[name], status=told)

    def job_deleted(self, name: str, user: str = OPERATOR) -> None:
        gone = deletion(f"job-{name}")
        self._entry(user, "delete", "jobs", name, gone)

    def pod(self, name: str, job: str, uid: str = UID) -> None:
        meta = {
            "name": name,
            "uid": f"pod-{name}",
            "labels": {"finetune.dev/uid": uid},
            "ownerReferences": [{"uid": f"job-{job}", "controller": True}],
        }
        self._add(CONTROLLER, "create", "pods", meta)

    def pod_is(self, phase: str, name: str) -> None:
        meta = {"name": name, "uid": f"pod-{name}"}
        self._add(KUBELET, "patch", "pods/status", meta, status={"phase": phase})

    def pod_silent(self, name: str) -> None:
        """Its node does not answer any more."""
        meta = {"name": name, "uid": f"pod-{name}"}
        taken = {"conditions": [{"type": "Ready", "status": "False"}], "phase": "Running"}
        self._add(NODES, "patch", "pods/status", meta, status=taken)

    def pod_let_go(self, name: str, grace: int = 0) -> None:
        meta = {"name": name, "uid": f"pod-{name}", "deletionTimestamp": "2026-11-26T06:00:00Z"}
        meta["deletionGracePeriodSeconds"] = grace
        self._add(KUBELET, "delete", "pods", meta)

    def refused(self) -> None:
        """A request that the API server did not take changes nothing."""
        self._add(OPERATOR, "update", "finetunejobs/status", {"name": "demo", "uid": UID}, code=409)

    def attempt(self, name: str, stage: str, number: int, end: str, counter: str = "") -> None:
        """A whole attempt with one pod: written ahead, created, run, over."""
        self.job(name, stage, number)
        self.pod(f"{name}-0", name)
        self.pod_is("Running", f"{name}-0")
        self.pod_is("Failed" if end == "Failed" else "Succeeded", f"{name}-0")
        self.job_is(end, name)

    def _add(
        self, user: str, verb: str, kind: str, meta: dict[str, Any], code: int = 200, **rest: Any
    ) -> None:
        revision = next(self._revisions)
        meta = {"namespace": "here", **meta, "resourceVersion": str(revision)}
        self._entry(user, verb, kind, meta["name"], {"metadata": meta, **rest}, code)
        if kind.startswith("finetunejobs") and code < 300:
            base = {"metadata": {"resourceVersion": str(self._object)}} if self._object else {}
            self.entries[-1]["requestObject"] = base
            self._object = revision

    def _entry(
        self, user: str, verb: str, kind: str, name: str, after: dict[str, Any], code: int = 200
    ) -> None:
        resource, _, subresource = kind.partition("/")
        self.entries.append(
            {
                "verb": verb,
                "user": {"username": user},
                "objectRef": {
                    "resource": resource,
                    "subresource": subresource,
                    "namespace": "here",
                    # A creation names its object in the answer alone.
                    **({} if verb == "create" else {"name": name}),
                },
                "responseStatus": {"code": code},
                "responseObject": after,
            }
        )


def deletion(uid: str) -> dict[str, Any]:
    """The answer to a deletion after which there is nothing any more."""
    return {"kind": "Status", "status": "Success", "metadata": {}, "details": {"uid": uid}}


def whole_life() -> Log:
    """prepare, a training that fails once, export: everything as it should be."""
    log = Log()
    log.finetune_job()
    log.status(prepareAttempt=0)
    log.refused()
    log.attempt("demo-p0", "prepare", 0, "Complete")
    log.status(prepareAttempt=0, attempt=0)
    log.attempt("demo-a0", "train", 0, "Failed")
    once = {"restarts": {"total": 1, "stepsRedone": 2}}
    log.status(prepareAttempt=0, attempt=0, phase="Restarting", **once)
    log.status(prepareAttempt=0, attempt=1, **once)
    log.attempt("demo-a1", "train", 1, "Complete")
    log.status(prepareAttempt=0, attempt=1, exportAttempt=0, **once)
    log.attempt("demo-x0", "export", 0, "Complete")
    log.status(**END, **once)
    return log


END: dict[str, Any] = {
    "prepareAttempt": 0, "attempt": 1, "exportAttempt": 0, "phase": "Succeeded",
    "completionTime": "2026-11-26T06:00:00Z",
}  # fmt: skip
