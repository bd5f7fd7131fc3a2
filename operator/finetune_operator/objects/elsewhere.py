"""Away from nodes where pods of the job were lost, or failed in a way that may be theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def elsewhere(
    avoid: Sequence[str], suspect: Sequence[str], affinity: dict[str, Any]
) -> dict[str, Any]:
    """``affinity``, added to. ``avoid``: names of nodes that the pods must not be placed on;
    ``suspect``: on which only where there is no room elsewhere."""
    if avoid:
        # Kubernetes taints a node that does not answer, but a pod may tolerate every taint. Terms
        # are alternatives, so each of them has to leave the nodes out.
        required = affinity.setdefault("nodeAffinity", {}).setdefault(
            "requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [{}]}
        )
        for term in required["nodeSelectorTerms"]:
            term["matchFields"] = _none_of(avoid)
    if suspect:
        # A node may have failed by chance, and be the only one with room: no more than a wish.
        terms = affinity.setdefault("nodeAffinity", {}).setdefault(
            "preferredDuringSchedulingIgnoredDuringExecution", []
        )
        terms.append({"weight": 100, "preference": {"matchFields": _none_of(suspect)}})
    return affinity


def _none_of(nodes: Sequence[str]) -> list[dict[str, Any]]:
    return [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
