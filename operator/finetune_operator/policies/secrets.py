"""The second wall: what pods, nodes and admission said is cleared of secrets before it is stored.

The trainer clears its own words; an older image, another program or the container runtime may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..api.redaction import redact
from ..api.types import Artifact, Failure
from .facts import Verdict
from .failure import MAX_LINE, MAX_LINES


def without_secrets(verdict: Verdict) -> Verdict:
    """The verdict with its texts cleared; nothing else about it changes."""
    return replace(
        verdict,
        message=redact(verdict.message),
        pending_reason=redact(verdict.pending_reason) if verdict.pending_reason else None,
        conditions={
            name: (value, reason, redact(message))
            for name, (value, reason, message) in verdict.conditions.items()
        },
        changes=_cleared(verdict.changes),
    )


def _cleared(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    artifact = changes.get("artifact")
    if isinstance(artifact, Artifact) and artifact.smoke_test and artifact.smoke_test.answer:
        answer = redact(artifact.smoke_test.answer)
        asked = artifact.smoke_test.model_copy(update={"answer": answer})
        changes = {**changes, "artifact": artifact.model_copy(update={"smoke_test": asked})}
    failure = changes.get("failure")
    if not isinstance(failure, Failure):
        return changes
    texts = ("message", "cause", "hint")
    cleared: dict[str, Any] = {
        name: redact(text) for name in texts if (text := getattr(failure, name))
    }
    if failure.lines:
        lines = redact("\n".join(failure.lines)).split("\n")  # a key may span several lines
        cleared["lines"] = tuple(line[:MAX_LINE] for line in lines)[-MAX_LINES:]
    return {**changes, "failure": failure.model_copy(update=cleared)}
