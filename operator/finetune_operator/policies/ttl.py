"""After the end: nothing changes any more, and children go when their time has come."""

from __future__ import annotations

from dataclasses import replace

from ..api.types import Phase
from .ending import delete_jobs
from .facts import Action, Facts, State, Verb, Verdict
from .human import with_late_ratings


def finished(facts: Facts) -> Verdict | None:
    """The end is absorbing. What is left to do: leftovers, the children's time to live, and what
    people say of a model that did not wait for them."""
    verdict = _finished(facts)
    return verdict and with_late_ratings(facts, verdict)


def _finished(facts: Facts) -> Verdict | None:
    status = facts.status
    if status.completion_time is None:
        return None
    succeeded = status.phase is Phase.SUCCEEDED
    condition = "Succeeded" if succeeded else "Failed"
    told = next((c for c in status.conditions if c.type == condition), None)
    verdict = Verdict(
        phase=status.phase or Phase.FAILED,
        state=State.SUCCEEDED if succeeded else State.FAILED,
        reason=told.reason if told else condition,
        message=told.message if told else "",
    )
    left = _seconds_to_live(facts)
    if left is None:
        return replace(verdict, actions=delete_jobs(facts.live_jobs))
    if left > 0:
        return replace(verdict, actions=delete_jobs(facts.live_jobs), again_after=left)
    if facts.own_jobs or facts.live_pods:
        children = (
            Action(Verb.DELETE, "Service", facts.key.name),
            Action(Verb.DELETE, "ConfigMap", f"{facts.key.name}-run"),
            # Last: while there is one, a pass that was cut short is repeated.
            *delete_jobs(job for job in facts.own_jobs if not job.deleting),
        )
        return replace(verdict, actions=children if facts.own_jobs else (), again_after=5.0)
    return replace(verdict, changes={"children_removed_time": facts.now})


def _seconds_to_live(facts: Facts) -> float | None:
    """Seconds until the children go; None: they stay, or they are gone."""
    ttl = facts.job.spec.get("ttlSecondsAfterFinished")
    done = facts.status.completion_time
    if not isinstance(ttl, int) or done is None or facts.status.children_removed_time:
        return None
    return ttl - facts.seconds_since(done)
