"""A CRD that is older than the operator: the API server drops what it does not know of a status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..api.types import FineTuneJobStatus
from ..engine.dropped import FieldPath
from .facts import Facts, Verdict

TOLD = 5
"""Fields that the sentence names."""
_OLDER = "the CRD in the cluster is older than the operator"
_UPGRADE = (
    "upgrade it with `kubectl apply --server-side -f` and crds/finetunejobs.finetune.dev.yaml of "
    "the operator's version, or with the chart's crds.enabled=true"
)


def tell_outdated(paths: Iterable[FieldPath]) -> str:
    """What is lost, and what to do."""
    names = sorted("status." + ".".join(path).replace(".[]", "[]") for path in paths)
    more = f" and {len(names) - TOLD} more fields" if len(names) > TOLD else ""
    return f"{_OLDER} and drops {', '.join(names[:TOLD])}{more}: {_UPGRADE}"


def tell_refused(words: str) -> str:
    """The same where the API server takes nothing of a status, with its words."""
    return f"{_OLDER}, and the API server refuses the status: {_UPGRADE} ({words})"


def with_lost_fields(facts: Facts, verdict: Verdict) -> Verdict:
    """The verdict, and that a field which it sets is not stored: what follows from that field does
    not come."""
    if not facts.dropped:
        return verdict
    fields = FineTuneJobStatus.model_fields
    lost = [
        path
        for name, value in verdict.changes.items()
        if value is not None and (path := (fields[name].alias or name,)) in facts.dropped
    ]
    return replace(verdict, pending_reason=tell_outdated(lost)) if lost else verdict
