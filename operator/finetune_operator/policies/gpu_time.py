"""How long training pods have held GPUs."""

from __future__ import annotations

from datetime import datetime

from ..api.goodput import AT_WORK
from ..api.types import Goodput, StageName
from ..observed import ChildPod
from .facts import Facts
from .silence import lost_at


def gpu_seconds_since(facts: Facts, known: Goodput, now: datetime) -> int:
    """Seconds since the last entry that each training pod held, times its GPUs.

    A pod holds its GPUs from the moment when it gets a node until its container has ended. One
    of a gang that was whole and is gone without a word is taken to have lived until now, one that
    was given up with its node until then: its object may stay for days.
    """
    gpus = facts.plan.spec.workers.gpus_per_worker if facts.plan else 0
    if facts.plan is None or gpus == 0:
        return 0
    begin, train = known.until, StageName.TRAIN.value
    pods = {pod.uid: pod for pod in (*facts.observed.last_words, *facts.observed.pods)}.values()
    own = [pod for pod in pods if pod.owner_uid == facts.job.uid and pod.stage == train]
    held = sum(_held(facts, pod, begin, now) for pod in own)
    if facts.stage.name is StageName.TRAIN and known.attempt and known.current in AT_WORK:
        told = {pod.index for pod in own if pod.attempt == facts.stage.attempt}
        held += (facts.plan.pods(StageName.TRAIN) - len(told)) * _seconds(begin, now)
    return max(0, held) * gpus


def _held(facts: Facts, pod: ChildPod, begin: datetime, now: datetime) -> int:
    if pod.scheduled is None:
        return 0
    end = now
    if pod.finished or pod.terminated:
        end = (pod.terminated.finished if pod.terminated else None) or begin
    elif facts.is_lost(pod):
        end = lost_at(pod, facts.patience, facts.listening_since) or now
    return _seconds(max(begin, pod.scheduled), min(now, end))


def _seconds(begin: datetime, end: datetime) -> int:
    return max(0, int((end - begin).total_seconds()))
