"""The API server's audit log as a sequence of writes, in the order in which etcd took them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Raw = Mapping[str, Any]
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


def writes(log: Path, since: int, namespaces: Collection[str]) -> list[Write]:
    """What was written in these namespaces since the byte ``since`` of the log.

    Refused requests are left out. The log must hold objects (``LocalCluster.audit_objects``).
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
        if entry["verb"] not in WRITES or entry["responseStatus"].get("code", 500) >= 300:
            continue
        target, after = entry["objectRef"], entry.get("responseObject") or {}
        meta = after.get("metadata") or {}
        # The answer to a deletion may name no version: it came after what the log had before.
        newest = revision = int(meta.get("resourceVersion") or newest)
        found.append(
            Write(
                revision=revision,
                user=entry["user"]["username"],
                verb=entry["verb"],
                kind="/".join(filter(None, (target["resource"], target.get("subresource")))),
                namespace=target.get("namespace", ""),
                name=target.get("name") or meta.get("name", ""),
                after=after,
            )
        )
    return sorted(found, key=lambda write: write.revision)


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
