"""A node does not answer: wait a while, then go on without its pods."""

from __future__ import annotations

from ..api.types import Reason
from .ending import name_pods
from .facts import RUNNING_PHASES, Facts, State, Verdict, record_job
from .failure import digest
from .out_of_reach import lost_of_attempt, silent_pods
from .restart import restart_or_end
from .silence import clock, lost_at


def node_lost(facts: Facts) -> Verdict | None:
    """A pod of the attempt was given up. Its Kubernetes Job would wait for it for ever, without a
    word, so the attempt ends here."""
    if not lost_of_attempt(facts):
        return None
    return restart_or_end(facts, digest(facts))


def node_unreachable(facts: Facts) -> Verdict | None:
    """Kubernetes has no word from a node, and the gang does not train: it may come back."""
    silent = tuple(pod for pod in silent_pods(facts) if not facts.is_excused(pod))
    times = [lost_at(pod, facts.patience, facts.listening_since) for pod in silent]
    end = min((at for at in times if at is not None), default=None)
    if end is None:
        return None
    limit = int(facts.patience.total_seconds())
    message = (
        f"a node does not answer, and what it ran may still run: {name_pods(silent)}; "
        f"waiting until {clock(end)} for it to come back "
        f"(spec.recovery.nodeLostAfterSeconds: {limit})"
    )
    return Verdict(
        phase=facts.status.phase or RUNNING_PHASES[facts.stage.name],
        state=State.MOVING,
        reason=Reason.NODE_UNREACHABLE,
        message=message,
        pending_reason=message,
        aside=record_job(facts),
        again_after=max(0.0, -facts.seconds_since(end)) + 0.1,
    )
