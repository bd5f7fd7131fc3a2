"""What service accounts asked for, out of an audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faults.audit import Call, calls

OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"


def line(user: str, verb: str, decision: str = "allow", **target: Any) -> str:
    entry = {
        "verb": verb,
        "user": {"username": user},
        **({"objectRef": target} if target else {}),
        "responseStatus": {"code": 200},
        "annotations": {"authorization.k8s.io/decision": decision},
    }
    return json.dumps(entry, separators=(",", ":")) + "\n"


def test_calls_are_told_by_account_right_and_whether_a_role_allows_them(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    earlier = line(OPERATOR, "delete", resource="pods")
    status = {"apiGroup": "finetune.dev", "resource": "finetunejobs", "subresource": "status"}
    log.write_text(
        earlier
        + line(OPERATOR, "update", **status)
        + line(OPERATOR, "update", **status)
        + line(OPERATOR, "list", "forbid", resource="secrets")
        + line(OPERATOR, "get")
        + line("system:serviceaccount:kube-system:job-controller", "create", resource="pods")
        + line("admin", "create", resource="pods", name=OPERATOR)
        + line(OPERATOR, "create", resource="events")[:-1]
    )
    assert calls(log, len(earlier)) == {
        Call(OPERATOR, "finetune.dev", "finetunejobs/status", "update", allowed=True),
        Call(OPERATOR, "", "secrets", "list", allowed=False),
    }
