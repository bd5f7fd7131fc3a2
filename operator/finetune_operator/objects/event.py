"""Events: one for each transition, with a name that makes repetitions collide."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from ..api.types import API_VERSION, KIND
from ..engine.store import Key


def build_event(
    key: Key, uid: str, *, warning: bool, reason: str, message: str, now: datetime
) -> dict[str, Any]:
    """An Event about the FineTuneJob; the same uid, reason and message make the same name."""
    digest = hashlib.sha256(f"{uid}\0{reason}\0{message}".encode()).hexdigest()[:16]
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name}.{digest}", "namespace": key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "finetune-operator"},
        "reportingComponent": "finetune-operator",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
