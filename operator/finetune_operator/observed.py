"""What is really there, as far as decisions look at it.

Equality leaves ``version`` out: two sightings are equal when no decision could tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from .engine.store import Key
from .engine.wire import parse, render

Raw = Mapping[str, Any]
FINISHED_PODS = ("Succeeded", "Failed")


def pack(value: Raw) -> bytes:
    """JSON: a fifth of the memory of the same dicts, of which thousands lie in the store."""
    return render(value)


@lru_cache(maxsize=256)
def unpack(packed: bytes) -> Raw:
    value: Raw = parse(packed)
    return value


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A FineTuneJob as the API server has it."""

    key: Key
    uid: str
    version: int = field(compare=False)
    generation: int
    created: datetime
    deleting: bool
    packed_spec: bytes
    packed_status: bytes
    phase: str
    """As in the status; empty before the first."""
    finished: bool
    gpu_seconds: int
    """As in the status; 0 before training."""

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def spec(self) -> Raw:
        """Shared by all readers: never to be changed."""
        return unpack(self.packed_spec)

    @property
    def status(self) -> Raw:
        """Shared by all readers: never to be changed."""
        return unpack(self.packed_status)


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A Kubernetes Job: one attempt of a stage."""

    key: Key
    name: str
    uid: str
    version: int = field(compare=False)
    owner_uid: str
    """The FineTuneJob that made it."""
    stage: str
    attempt: int
    created: datetime
    parallelism: int
    failed: int
    deleting: bool
    started: datetime | None
    """When it was last allowed to have pods; None: it is not, or not seen by its controller."""
    suspended: bool
    complete: bool
    failure: tuple[str, str] | None
    """Reason and message of condition Failed: all its pods are gone."""
    failing: tuple[str, str] | None
    """Reason and message of condition FailureTarget: its pods are being ended."""

    @property
    def finished(self) -> bool:
        return self.complete or self.failure is not None


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class ChildPod:
    """A pod of an attempt."""

    key: Key
    name: str
    uid: str
    version: int = field(compare=False)
    job_uid: str
    """The Kubernetes Job that made it."""
    owner_uid: str
    """The FineTuneJob, by label."""
    stage: str
    attempt: int
    index: int
    created: datetime
    phase: str
    ready: bool
    silent: datetime | None
    """Since when Kubernetes has no word from its node; None: it has, or the pod was not ready."""
    due: datetime | None
    """When it has to be gone, its grace period included; None: nobody asked it to go."""
    node: str
    ip: str
    image: str
    image_id: str
    """What the node made of it, with its digest; empty: it has not said so."""
    unscheduled: tuple[str, str, datetime] | None
    """Reason, message and time of PodScheduled=False."""
    waiting: tuple[str, str] | None
    """Why its container does not run: reason and message."""
    terminated: Termination | None
    """How it ended; of several containers, once all have: the first that failed."""
    scheduled: datetime | None
    """When it got its node, by the control plane's clock."""
    disruption: str
    """Reason of condition DisruptionTarget, or of the pod's own eviction; empty: none."""
    ended: tuple[tuple[str, Termination], ...] = ()
    """Containers of scorers that have ended, by name."""
    stuck_in: str = ""
    """Container of its beginning that failed; then ``terminated`` is that one's."""
    acknowledged: datetime | None = None
    """When its kubelet first saw it, by the clock of the node."""
    overdue: bool = False
    """It was ended for its own deadline."""
    overfull: str = ""
    """What the kubelet said when it evicted it for going over its own limit of local disk."""

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED_PODS

    @property
    def deleting(self) -> bool:
        return self.due is not None


@dataclass(frozen=True)
class Admission:
    """What Kueue says about a Job: its Workload, cut down."""

    known: bool = False
    """There is a Workload for it."""
    waiting: str = ""
    """Why there is no quota for it, in Kueue's words; empty: it has quota, or nothing was said."""
    evicted: tuple[str, str] | None = None
    """Reason and message of condition Evicted."""


@dataclass(frozen=True)
class Observed:
    """The children of a job, its own and those of an earlier job of the same name."""

    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[ChildPod, ...] = ()
    last_words: tuple[ChildPod, ...] = ()
    """Ended pods of the present attempt that may be gone by now."""
    warning: tuple[str, str] | None = None
    """Reason and message of the newest Warning event that explains why pods do not come up."""
    admission: Admission | None = None
    """Of the present attempt's Job, where a queue holds it; None: not asked, or not readable."""
    unbound: tuple[str, ...] = ()
    """Claims of the stage's pods that have no volume, asked for where pods wait for one."""

    def job(self, name: str, owner_uid: str) -> ChildJob | None:
        for job in self.jobs:
            if job.name == name and job.owner_uid == owner_uid:
                return job
        return None
