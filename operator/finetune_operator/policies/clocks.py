"""Ends of pods in their order, although the clocks of their nodes may differ by minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

from ..observed import ChildPod
from ..reports import FailureReport

EARLY, LATE = timedelta(seconds=-1), timedelta(seconds=5)
"""So long after the scheduler gave it the node, by whole seconds, may a kubelet see a pod: sooner
or later by its own clock, and that clock is wrong."""


def ended_at(pod: ChildPod, report: FailureReport | None) -> datetime | None:
    """When it ended, by the control plane's clock, within ten seconds; None: it has not said.

    Its node tells by its own. That one may be wrong, and then it was as wrong when the pod came to
    the node: what passed since then is counted by one clock.
    """
    if report and report.at and 0 < report.at < 1e11:
        told: datetime | None = datetime.fromtimestamp(report.at, UTC)
    else:
        told = pod.terminated.finished if pod.terminated else None
    if told is None or pod.scheduled is None or pod.acknowledged is None:
        return told
    ahead = pod.acknowledged - pod.scheduled
    return told if EARLY <= ahead <= LATE else told - ahead


def in_order(
    ends: Mapping[str, ChildPod], reports: Mapping[str, FailureReport | None]
) -> dict[str, datetime]:
    """When each pod ended, by name: comparable to a second where their launchers told how long ago
    the ranks had met, to ten seconds otherwise. Pods that have not said come last."""
    times = {name: ended_at(pod, reports[name]) for name, pod in ends.items()}
    meetings: dict[int, list[float]] = {}
    for name, at in times.items():
        report = reports[name]
        if at is not None and report is not None and report.since is not None:
            begun = at.timestamp() - report.since.seconds
            meetings.setdefault(report.since.met, []).append(begun)
    return {
        name: _since(reports[name], meetings) or at or datetime.max.replace(tzinfo=UTC)
        for name, at in times.items()
    }


def _since(
    report: FailureReport | None, meetings: Mapping[int, Sequence[float]]
) -> datetime | None:
    """By the time at which most say that the meeting was."""
    if report is None or report.since is None or report.since.met not in meetings:
        return None
    begun = median(meetings[report.since.met])
    return datetime.fromtimestamp(begun + report.since.seconds, UTC)
