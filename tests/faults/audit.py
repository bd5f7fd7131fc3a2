"""The API server's audit log as a sequence of writes, in the order in which etcd took them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Raw = Mapping[str, Any]
ACCOUNT = "system:serviceaccount:"
WRITES = ("create", "update", "patch", "delete")
PREFIX = "finetune.dev"
JOB_LABEL, UID_LABEL = f"{PREFIX}/job", f"{PREFIX}/uid"
STAGE_LABEL, ATTEMPT_LABEL = f"{PREFIX}/stage", f"{PREFIX}/attempt"


@dataclass(frozen=True)
class Write:
    """One request that changed an object."""

    revision: int
    """etcd's revision after it: one count for objects of all kinds."""
    user: str
    verb: str
    kind: str
    """Resource and subresource: ``pods``, ``finetunejobs/status``, …"""
    namespace: str
    name: str
    after: Raw
    """The object as it was then; after a deletion as it was last, or a Status with its UID."""
    base: int = 0
    """Revision of the object that the request set out from; 0: it did not say."""
    answered: bool = True
    """False: who asked was gone before the answer. About half of these requests are carried out
    all the same; ``after`` is then what was asked for, and ``revision`` that of its neighbour."""


class Call(NamedTuple):
    """What a service account asked of the API."""

    user: str
    group: str
    """API group; empty: the core."""
    resource: str
    """With its subresource: ``finetunejobs/status``."""
    verb: str
    allowed: bool
    """Its roles let it; the answer may still have been no."""


def calls(log: Path, since: int) -> set[Call]:
    """What service accounts outside of kube-system asked since the byte ``since``."""
    found = set()
    with log.open() as lines:
        lines.seek(since)
        for line in lines:
            if not line.endswith("\n") or f'"username":"{ACCOUNT}' not in line:
                continue
            if f'"username":"{ACCOUNT}kube-system:' not in line:
                found.add(read_call(json.loads(line)))
    return {call for call in found if call is not None}


def read_call(entry: Raw) -> Call | None:
    """None: it is about no object, such as the version of the API server."""
    target = entry.get("objectRef") or {}
    if "resource" not in target or not entry["user"]["username"].startswith(ACCOUNT):
        return None
    decision = (entry.get("annotations") or {}).get("authorization.k8s.io/decision")
    return Call(
        user=entry["user"]["username"],
        group=target.get("apiGroup", ""),
        resource="/".join(filter(None, (target["resource"], target.get("subresource")))),
        verb=entry["verb"],
        allowed=decision != "forbid",
    )


def writes(log: Path, since: int, namespaces: Collection[str]) -> list[Write]:
    """What was written in these namespaces since the byte ``since`` of the log.

    Refused requests are left out, those whose sender died are not. The log must hold objects
    (``LocalCluster.audit_objects``).
    """
    marks = [f'"namespace":"{name}"' for name in namespaces]
    found = []
    with log.open() as lines:
        lines.seek(since)
        for line in lines:
            if line.endswith("\n") and any(mark in line for mark in marks):
                found.append(json.loads(line))
    return list(read_writes(entry for entry in found if _place(entry) in namespaces))


def read_writes(entries: Iterator[Raw] | list[Raw]) -> list[Write]:
    """The writes among audit entries, sorted."""
    found: list[Write] = []
    newest = 0
    for entry in entries:
        answered = not _canceled(entry["responseStatus"])
        refused = answered and entry["responseStatus"].get("code", 500) >= 300
        if entry["verb"] not in WRITES or refused:
            continue
        target, asked = entry["objectRef"], entry.get("requestObject") or {}
        after = (entry.get("responseObject") or {}) if answered else asked
        meta = after.get("metadata") or {}
        # The answer to a deletion may name no version: it came after what the log had before.
        newest = revision = int((answered and meta.get("resourceVersion")) or newest)
        found.append(
            Write(
                revision=revision,
                user=entry["user"]["username"],
                verb=entry["verb"],
                kind="/".join(filter(None, (target["resource"], target.get("subresource")))),
                namespace=target.get("namespace", ""),
                name=target.get("name") or meta.get("name", ""),
                after=after,
                base=int((asked.get("metadata") or {}).get("resourceVersion") or 0),
                answered=answered,
            )
        )
    return sorted(found, key=lambda write: write.revision)


def _canceled(answer: Raw) -> bool:
    """The API server gave up waiting because the connection was gone; etcd may have gone on."""
    return answer.get("code") == 504 and "context canceled" in answer.get("message", "")


def refused(log: Path, since: int, user: str, code: int) -> int:
    """How many of a user's requests got this answer since the byte ``since``."""
    with log.open() as lines:
        lines.seek(since)
        return sum(
            f'"username":"{user}"' in line and f'"code":{code}' in line
            for line in lines
            if line.endswith("\n")
        )


def _place(entry: Raw) -> str:
    return str((entry.get("objectRef") or {}).get("namespace", ""))
