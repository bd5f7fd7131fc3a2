"""Ending a job for good: its pods are given back first, then it is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..api.types import Failure, Phase
from ..observed import ChildJob, ChildPod
from .facts import RUNNING_PHASES, Action, Facts, State, Verb, Verdict, record_job
from .silence import clock

POLL_SECONDS = 10.0


def delete_jobs(jobs: Iterable[ChildJob]) -> tuple[Action, ...]:
    """Delete these Jobs; their pods get SIGTERM and their grace period."""
    return tuple(Action(Verb.DELETE, "Job", job.name, uid=job.uid) for job in jobs)


def name_pods(pods: Iterable[ChildPod]) -> str:
    """``pod a on node n1, pod b on node n2 and 5 more``; and since when a node is silent."""
    named = [f"pod {pod.name}{_node(pod)}" for pod in pods]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return ", ".join(named[:3]) + more


def _node(pod: ChildPod) -> str:
    if not pod.node:
        return ""
    silent = f" (no word since {clock(pod.silent)})" if pod.silent else ""
    return f" on node {pod.node}{silent}"


def end_job(facts: Facts, reason: str, message: str, *, failure: Failure | None = None) -> Verdict:
    """Failed, as soon as no pod is left but those that were given up."""
    changes: dict[str, Any] = {**record_job(facts), "failure": failure or facts.status.failure}
    if facts.live_jobs or facts.live_pods:
        waiting = f"; waiting until its pods are gone: {name_pods(facts.live_pods)}"
        return Verdict(
            phase=facts.status.phase or RUNNING_PHASES[facts.stage.name],
            state=State.MOVING,
            reason=reason,
            message=message + (waiting if facts.live_pods else "; ending its pods"),
            changes=changes,
            actions=delete_jobs(facts.live_jobs),
            again_after=POLL_SECONDS,
            quiet=True,
        )
    lost = f"; given up with their nodes: {name_pods(facts.lost_pods)}" if facts.lost_pods else ""
    return Verdict(
        phase=Phase.FAILED,
        state=State.FAILED,
        reason=reason,
        message=message + lost,
        changes={
            **changes,
            "completion_time": facts.now,
            "next_attempt_time": None,
            "suspend_time": None,
        },
    )
