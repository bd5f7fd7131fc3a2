"""A small world in memory: an API server's objects, with its conflicts, and slow controllers.

It plays the Job controller, the kubelet and the garbage collector only as far as their results
show in objects, so that thousands of histories can be tried in a second. The real ones are met in
tests/e2e.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from builders import NOW

from finetune_operator.cluster import Children
from finetune_operator.engine.store import Key
from finetune_operator.errors import Forbidden, NameConflict, NotThere, Refused, Stale
from finetune_operator.gather import Stores
from finetune_operator.observed import Admission, ChildJob, ChildPod, StoredJob
from finetune_operator.policies.validity import Claim
from finetune_operator.reading import read_child_job, read_child_pod, read_job

Raw = dict[str, Any]
Meaning = TypeVar("Meaning")
INDEX = "batch.kubernetes.io/job-completion-index"
GRACE_SECONDS = 30


class Crash(BaseException):
    """The operator process dies here. Not an Exception: nothing may catch it."""


class FakeCluster:
    """Implements ``finetune_operator.cluster.Cluster``."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.claims: dict[str, Claim] = {"work": Claim(("ReadWriteMany",))}
        self.gpu_hours_of_namespace: str | None = None
        self.config_maps: dict[str, dict[str, str]] = {}
        """Data by name."""
        self.events: list[Raw] = []
        self.writes: list[tuple[str, str, str]] = []
        self.now: datetime = NOW
        self.crash_after: int | None = None
        """Die right after this many more writes."""
        self.refuse: Refused | None = None
        """The answer to the next creations of Jobs."""
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and kinds that the operator's role lacks."""
        self.pruned: set[tuple[str, ...]] = set()
        """Fields of the status that the CRD does not know."""
        self.stale_reads = 0
        """So many status writes find that somebody was faster."""
        self.silent: set[str] = set()
        """Nodes that do not answer: nothing changes of their pods, whatever happens there."""
        self.room: int | None = None
        """So many pods have a node at the same time; None: as many as there are."""
        self._versions = itertools.count(100)
        self._uids = itertools.count(1)
        self._read: dict[str, tuple[str, Any]] = {}
        """Version and meaning of an object, by uid: much more is asked than changes."""

    # --- the API server ---

    async def job(self, key: Key) -> StoredJob | None:
        raw = self.objects.get(("FineTuneJob", *key))
        return read_job(raw) if raw else None

    async def children(self, key: Key) -> Children:
        return Children(self.child_jobs(key), self.child_pods(key), next(self._versions))

    async def write_status(self, job: StoredJob, status: Mapping[str, Any]) -> StoredJob:
        raw = self.objects.get(("FineTuneJob", *job.key))
        if raw is None:
            raise NotThere(str(job.key))
        if self.stale_reads > 0:
            self.stale_reads -= 1
            raise Stale("somebody was faster")
        if int(raw["metadata"]["resourceVersion"]) != job.version:
            raise Stale(str(job.key))
        wanted = self._known(json.loads(json.dumps(status)))
        if wanted != raw["status"]:  # a write that changes nothing makes no new version
            raw["status"] = wanted
            self._touch(raw)
        self._wrote("PUT", "FineTuneJob", job.key.name)
        return read_job(copy.deepcopy(raw))

    async def ensure(
        self, manifest: Mapping[str, Any], owner_uid: str, *, fresh: bool = False
    ) -> None:
        self._may("create" if fresh else "get", manifest["kind"])
        found = self._find(manifest)
        if found is None:
            self._may("create", manifest["kind"])
            self.add(manifest)
            self._wrote("POST", manifest["kind"], manifest["metadata"]["name"])
        elif not _owned(found, owner_uid):
            raise NameConflict(manifest["kind"], manifest["metadata"]["name"])
        elif any(found.get(name) != manifest.get(name) for name in ("data", "spec")):
            self._may("patch", manifest["kind"])
            found.update({name: manifest[name] for name in ("data", "spec") if name in manifest})
            self._wrote("PATCH", manifest["kind"], manifest["metadata"]["name"])

    async def create_job(self, manifest: Mapping[str, Any], owner_uid: str) -> ChildJob:
        self._may("create", "Job")
        if self.refuse is not None:
            raise self.refuse
        found = self._find(manifest)
        if found is None:
            found = self.add(manifest)
            self._wrote("POST", "Job", manifest["metadata"]["name"])
        elif not _owned(found, owner_uid):
            raise NameConflict("Job", manifest["metadata"]["name"])
        return read_child_job(found)

    async def delete(self, kind: str, key: Key, name: str, uid: str | None, owner_uid: str) -> None:
        found = self.objects.get((kind, key.namespace, name))
        if found is None or (uid is not None and found["metadata"]["uid"] != uid):
            return
        if uid is None and not _owned(found, owner_uid):
            return
        self._may("delete", kind)
        del self.objects[kind, key.namespace, name]
        self._wrote("DELETE", kind, name)

    async def post_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))

    async def claim(self, namespace: str, name: str) -> Claim | None:
        self._may("get", "PersistentVolumeClaim")
        return self.claims.get(name, Claim(("ReadWriteMany",)))

    async def config_map_keys(self, namespace: str, name: str) -> frozenset[str] | None:
        self._may("get", "ConfigMap")
        return frozenset({"jinja"})

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        self._may("get", "ConfigMap")
        return self.config_maps.get(name)

    async def admission(self, namespace: str, job_uid: str) -> Admission | None:
        return None  # no Kueue here

    async def gpu_hours(self, namespace: str, name: str) -> str | None:
        self._may("get", "ConfigMap")
        return self.gpu_hours_of_namespace

    async def newest_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        self._may("list", "Event")
        return None

    # --- what users and controllers do ---

    def add(self, manifest: Mapping[str, Any]) -> Raw:
        raw: Raw = copy.deepcopy(dict(manifest))
        meta = raw["metadata"]
        meta.setdefault("uid", f"uid-{next(self._uids)}")
        meta.setdefault("creationTimestamp", self.now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        meta.setdefault("generation", 1)
        self._touch(raw)
        self.objects[raw["kind"], meta["namespace"], meta["name"]] = raw
        return raw

    def add_job(self, key: Key, spec: Mapping[str, Any]) -> Raw:
        """A user applies a FineTuneJob."""
        meta = {"namespace": key.namespace, "name": key.name}
        status = {"observedGeneration": -1}
        return self.add({"kind": "FineTuneJob", "metadata": meta, "spec": spec, "status": status})

    def edit_job(self, key: Key, **spec: Any) -> None:
        """A user changes fields of the spec."""
        raw = self.objects["FineTuneJob", *key]
        raw["spec"] = {**raw["spec"], **spec}
        raw["metadata"]["generation"] += 1
        self._touch(raw)

    def delete_job(self, key: Key) -> None:
        """A user deletes the FineTuneJob; its children stay until ``collect_garbage``."""
        self.objects.pop(("FineTuneJob", *key), None)

    def stored(self, key: Key) -> StoredJob:
        return self._meaning(read_job, self.objects["FineTuneJob", *key])

    def child_jobs(self, key: Key) -> tuple[ChildJob, ...]:
        found = [self._meaning(read_child_job, raw) for raw in self._of_kind("Job")]
        return tuple(job for job in found if job.key == key)

    def child_pods(self, key: Key) -> tuple[ChildPod, ...]:
        found = [self._meaning(read_child_pod, raw) for raw in self._of_kind("Pod")]
        return tuple(pod for pod in found if pod.key == key)

    def make_pods(self) -> None:
        """The Job controller creates what is missing, once for each Job."""
        for job in self._of_kind("Job"):
            if job.get("podsMade") or job.get("status", {}).get("conditions"):
                continue
            job["podsMade"] = True
            self._touch(job)
            for index in range(job["spec"]["parallelism"]):
                self._make_pod(job, index)

    def start_pods(self) -> None:
        """The kubelets start every pod that waits."""
        for pod in self._of_kind("Pod"):
            if self.is_silent(pod) or not self._place(pod):
                continue
            if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
                pod["status"] = {
                    "phase": "Running",
                    "podIP": "10.0.0.1",
                    "conditions": [
                        {"type": "Ready", "status": "True"},
                        {"type": "ContainersReady", "status": "True"},
                        self._scheduled(),
                    ],
                    "containerStatuses": [{"state": {"running": {}}}],
                }
                self._touch(pod)

    def end_pod(self, name: str, code: int, words: Mapping[str, Any] | None = None) -> None:
        """A container ends."""
        pod = self.objects["Pod", self._namespace("Pod", name), name]
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": json.dumps(words) if words else "",
            "finishedAt": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        scheduled = [c for c in pod["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
        pod["status"] = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "conditions": [{"type": "Ready", "status": "False"}, *scheduled],
            "containerStatuses": [{"state": {"terminated": ended}}],
        }
        self._touch(pod)

    def evict_pod(self, name: str) -> None:
        self.end_pod(name, 143)
        pod = self.objects["Pod", self._namespace("Pod", name), name]
        pod["status"]["conditions"].append(
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        )
        self._touch(pod)

    def is_silent(self, pod: Raw) -> bool:
        return pod["spec"]["nodeName"] in self.silent

    def node_stops_answering(self, node: str) -> None:
        """The node controller takes readiness from its pods; all else stays as it was."""
        self.silent.add(node)
        for pod in self._of_kind("Pod"):
            for condition in pod["status"].get("conditions", ()):
                if self.is_silent(pod) and condition == {"type": "Ready", "status": "True"}:
                    condition |= {"status": "False", "lastTransitionTime": self._clock()}
                    self._touch(pod)

    def evict_from_silent_nodes(self) -> None:
        """The taint manager asks their pods to go; nobody there hears it."""
        for pod in self._of_kind("Pod"):
            phase, conditions = pod["status"]["phase"], pod["status"].get("conditions", [])
            unfinished = phase in ("Pending", "Running")
            if self.is_silent(pod) and unfinished and "deletionTimestamp" not in pod["metadata"]:
                reason = {"status": "True", "reason": "DeletionByTaintManager"}
                pod["status"]["conditions"] = [*conditions, {"type": "DisruptionTarget", **reason}]
                self._terminate(pod)

    def nodes_come_back(self) -> None:
        """Their kubelets say how it is; pods that were asked to go will do so."""
        for pod in self._of_kind("Pod"):
            for condition in pod["status"].get("conditions", ()):
                if self.is_silent(pod) and "lastTransitionTime" in condition:
                    del condition["lastTransitionTime"]
                    condition["status"] = "True"
                    self._touch(pod)
        self.silent.clear()

    def lose_pod(self, name: str) -> None:
        """A pod is deleted by force: its object goes at once and leaves no word."""
        pod = self.objects.pop(("Pod", self._namespace("Pod", name), name))
        for job in self._of_kind("Job"):
            if _owned(pod, job["metadata"]["uid"]):
                job["podsLost"] = True

    def judge_jobs(self) -> None:
        """The Job controller: one failed pod ends the gang; Failed only when all are gone.

        A pod that is missing has failed: the controller had marked it with its finalizer.
        """
        for job in self._of_kind("Job"):
            pods = [p for p in self._of_kind("Pod") if _owned(p, job["metadata"]["uid"])]
            phases = [pod["status"]["phase"] for pod in pods]
            status: Raw = job.setdefault("status", {})
            if not job.get("podsMade") or status.get("conditions", [{}])[0].get("type") in (
                "Complete",
                "Failed",
            ):
                continue
            if "Failed" in phases or job.get("podsLost"):
                for pod in pods:
                    if pod["status"]["phase"] in ("Pending", "Running"):
                        self._terminate(pod)
                done = all(phase in ("Succeeded", "Failed") for phase in phases)
                kind = "Failed" if done else "FailureTarget"
                reason = {"reason": "BackoffLimitExceeded", "message": "too many failures"}
                conditions = [{"type": kind, "status": "True", **reason}]
            elif pods and all(phase == "Succeeded" for phase in phases):
                conditions = [{"type": "Complete", "status": "True"}]
            else:
                continue
            if status.get("conditions") != conditions:
                status["conditions"] = conditions
                self._touch(job)

    def finish_terminating(self) -> None:
        """The kubelets let go of pods that were told to stop."""
        for pod in list(self._of_kind("Pod")):
            if "deletionTimestamp" in pod["metadata"] and not self.is_silent(pod):
                meta = pod["metadata"]
                del self.objects["Pod", meta["namespace"], meta["name"]]

    def collect_garbage(self) -> None:
        """Children of owners that are gone: Jobs go at once, running pods get their time."""
        alive = {raw["metadata"]["uid"] for raw in self.objects.values()}
        for (kind, namespace, name), raw in list(self.objects.items()):
            owners = {owner["uid"] for owner in raw["metadata"].get("ownerReferences", ())}
            if not owners or owners & alive:
                continue
            if kind == "Pod" and raw["status"]["phase"] in ("Pending", "Running"):
                self._terminate(raw)
            else:
                del self.objects[kind, namespace, name]

    def sync(self, stores: Stores, *, pods_too: bool = True) -> set[Key]:
        """The watches catch up, or only those of the Jobs. Returns the keys with news."""
        version = next(self._versions)
        changed = stores.jobs.synchronise(map(read_job, self._of_kind("FineTuneJob")), version)
        changed |= stores.child_jobs.synchronise(map(read_child_job, self._of_kind("Job")), version)
        if not pods_too:
            return changed
        pods = [self._meaning(read_child_pod, raw) for raw in self._of_kind("Pod")]
        stores.keep_last_words(pods)
        return changed | stores.child_pods.synchronise(pods, version)

    def pass_time(self, count: float) -> None:
        self.now += timedelta(seconds=count)

    def _make_pod(self, job: Raw, index: int) -> None:
        meta, template = job["metadata"], job["spec"]["template"]
        pod = self.add(
            {
                "kind": "Pod",
                "metadata": {
                    "namespace": meta["namespace"],
                    "name": f"{meta['name']}-{index}",
                    "labels": {**template["metadata"]["labels"], INDEX: str(index)},
                    "ownerReferences": [{"kind": "Job", "uid": meta["uid"], "controller": True}],
                },
                "spec": {"nodeName": ""},
                "status": {"phase": "Pending"},
            }
        )
        self._place(pod)

    def _place(self, pod: Raw) -> bool:
        """The scheduler. Returns whether the pod has a node."""
        if pod["spec"]["nodeName"]:
            return True
        used = sum(
            bool(other["spec"]["nodeName"]) and other["status"]["phase"] in ("Pending", "Running")
            for other in self._of_kind("Pod")
            if not self.is_silent(other)
        )
        if self.room is None or used < self.room:
            pod["spec"]["nodeName"] = self._free_node(int(pod["metadata"]["labels"][INDEX]))
            pod["status"].pop("conditions", None)
        elif "conditions" not in pod["status"]:
            reason = {"reason": "Unschedulable", "message": "0/3 nodes are available"}
            no = {"type": "PodScheduled", "status": "False", "lastTransitionTime": self._clock()}
            pod["status"]["conditions"] = [{**no, **reason}]
        self._touch(pod)
        return bool(pod["spec"]["nodeName"])

    def _scheduled(self) -> Raw:
        at = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "PodScheduled", "status": "True", "lastTransitionTime": at}

    def _free_node(self, index: int) -> str:
        """The scheduler places nothing on nodes that do not answer."""
        return next(node for n in itertools.count(index) if (node := f"n{n}") not in self.silent)

    def _terminate(self, pod: Raw) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = self._clock(GRACE_SECONDS)
            self._touch(pod)

    def _clock(self, seconds: float = 0) -> str:
        return (self.now + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _meaning(self, read: Callable[[Raw], Meaning], raw: Raw) -> Meaning:
        version, uid = raw["metadata"]["resourceVersion"], raw["metadata"]["uid"]
        known = self._read.get(uid)
        if known is None or known[0] != version:
            known = self._read[uid] = version, read(raw)
        return known[1]

    def _of_kind(self, kind: str) -> list[Raw]:
        return [raw for key, raw in self.objects.items() if key[0] == kind]

    def _namespace(self, kind: str, name: str) -> str:
        return next(key[1] for key in self.objects if key[0] == kind and key[2] == name)

    def _find(self, manifest: Mapping[str, Any]) -> Raw | None:
        meta = manifest["metadata"]
        return self.objects.get((manifest["kind"], meta["namespace"], meta["name"]))

    def _touch(self, raw: Raw) -> None:
        raw["metadata"]["resourceVersion"] = str(next(self._versions))

    def _known(self, status: Raw) -> Raw:
        for *parents, name in self.pruned:
            parts = [status]
            for parent in parents:
                found = [part.get(parent) for part in parts]
                parts = [p for f in found for p in (f if isinstance(f, list) else [f]) if p]
            for part in parts:
                part.pop(name, None)
        return status

    def _may(self, verb: str, kind: str) -> None:
        if (verb, kind) in self.forbidden:
            raise Forbidden(f"the operator may not {verb} {kind}")

    def _wrote(self, verb: str, kind: str, name: str) -> None:
        self.writes.append((verb, kind, name))
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after <= 0:
                self.crash_after = None
                raise Crash


def _owned(raw: Mapping[str, Any], uid: str) -> bool:
    return any(owner["uid"] == uid for owner in raw["metadata"].get("ownerReferences", ()))
