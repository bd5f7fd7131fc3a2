"""When a pod is given up, by what Kubernetes shows of it: nobody can ask its node.

Two signs, and both last for ever on a node that is gone. Kubernetes took the pod's readiness
because its node did not answer; or the pod had to be gone and is still there. Whether it still runs
cannot be told, so nothing may depend on it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ..observed import ChildPod


def lost_at(pod: ChildPod, patience: timedelta, listening_since: datetime) -> datetime | None:
    """When the pod is, or was, given up, if nothing changes; None: it never is.

    Silence counts from ``listening_since`` at the earliest: an operator that has only just started
    has not given the gang a chance to speak.
    """
    if pod.finished or not pod.node:
        return None
    since = []
    if pod.silent is not None:
        since.append(max(pod.silent, listening_since))
    if pod.due is not None:
        since.append(pod.due)
    return min(since) + patience if since else None


def is_lost(pod: ChildPod, now: datetime, patience: timedelta, listening_since: datetime) -> bool:
    """The time of waiting for this pod is over."""
    at = lost_at(pod, patience, listening_since)
    return at is not None and at <= now


def out_of_reach_since(pod: ChildPod) -> datetime:
    """Since when its node has not answered, or else when it had to be gone. Of lost pods."""
    return pod.silent or pod.due or pod.created


def clock(moment: datetime) -> str:
    """A moment as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
