"""Pods whose nodes do not answer: which they are, and what the status says of them."""

from __future__ import annotations

from ..api.types import LostNode
from ..observed import ChildPod
from .ending import name_pods
from .facts import Facts
from .silence import out_of_reach_since

MAX_NODES = 64
MAX_PODS = 64


def silent_pods(facts: Facts) -> tuple[ChildPod, ...]:
    """Pods of the present attempt from whose nodes Kubernetes has no word."""
    return tuple(
        pod
        for pod in facts.observed.pods
        if facts.of_present_attempt(pod) and pod.silent is not None and not pod.finished
    )


def lost_of_attempt(facts: Facts) -> tuple[ChildPod, ...]:
    """Pods of the present attempt that were given up, the one that was lost first at the head."""
    lost = (pod for pod in facts.lost_pods if facts.of_present_attempt(pod))
    return tuple(sorted(lost, key=lambda pod: (out_of_reach_since(pod), pod.index)))


def tell_silent(facts: Facts) -> str:
    """For the sentence on a gang that trains although Kubernetes has no word from a node of it."""
    silent = silent_pods(facts)
    return f", although a node does not answer: {name_pods(silent)}" if silent else ""


def lost_nodes(facts: Facts) -> tuple[LostNode, ...] | None:
    """Where pods were given up, for the status."""
    nodes: dict[str, list[ChildPod]] = {}
    for pod in facts.lost_pods:
        nodes.setdefault(pod.node, []).append(pod)
    told = [
        LostNode(
            name=name,
            since=min(out_of_reach_since(pod) for pod in pods),
            pods=tuple(sorted(pod.name for pod in pods)[:MAX_PODS]),
        )
        for name, pods in sorted(nodes.items())
    ]
    return tuple(told[:MAX_NODES]) or None
