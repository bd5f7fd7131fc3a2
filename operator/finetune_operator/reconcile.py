"""The story of a pass: gather, decide, write the status, act.

Nothing is done that the stored status does not say already. So a crash at any point repeats the
same step and never begins another one, and a pass over a job at rest writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .api.types import Reason
from .cluster import Cluster
from .engine.store import Key
from .errors import Forbidden, Invalid, NameConflict, Refused, Stale
from .gather import Gatherer
from .objects.event import build_event
from .policies.facts import Action, Facts, Obstacle, Verb
from .policies.outdated import tell_outdated, tell_refused
from .status import Decision, decide

STEPS = 8
"""A pass that has not come to rest after so many writes starts again later."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Brings one job after the other to rest. Safe for several workers on different keys."""

    def __init__(
        self, cluster: Cluster, gatherer: Gatherer, announce: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """``announce`` takes Events to post whenever there is time."""
        self._cluster = cluster
        self._gatherer = gatherer
        self._announce = announce
        self._refusals: dict[Key, Obstacle] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds after which to look again. Raises ``ClusterError``."""
        written = False
        for _ in range(STEPS):
            facts = await self._gatherer.facts(key, self._refusals.get(key))
            if facts is None:
                self._forget(key)
                return None
            decision = decide(facts)
            if decision.irrevocable:
                confirmed = await self._gatherer.confirmed(facts, job_is_fresh=written)
                if confirmed is None:
                    self._forget(key)
                    return None
                if confirmed is not facts:
                    facts, decision = confirmed, decide(confirmed)
            if decision.status != facts.job.status:
                await self._write(facts, decision)
                written = True
                continue
            try:
                for action in decision.actions:
                    await self._carry_out(facts, action)
            except (Refused, Forbidden) as refusal:
                if self._remember(key, refusal):
                    continue  # the next decision says so
                return decision.again_after
            healed = self._refusals.pop(key, None) is not None
            if not healed and not any(action.verb is Verb.CREATE for action in decision.actions):
                return decision.again_after
        raise Stale(f"{key}: not at rest after {STEPS} steps")

    async def _write(self, facts: Facts, decision: Decision) -> None:
        try:
            stored = await self._cluster.write_status(facts.job, decision.status)
        except Invalid as error:
            self._tell_outdated(facts, tell_refused(str(error)))
            raise
        self._gatherer.stores.jobs.put(stored)
        if news := self._gatherer.dropped.learn(decision.status, stored.status):
            self._tell_outdated(facts, tell_outdated(news))
        phase = decision.status.get("phase")
        if phase != facts.job.status.get("phase"):
            logger.info("%s", phase, extra={"job": str(facts.key)})
        if decision.event is not None:  # after the write that it tells of; losing one is no harm
            self._announce(decision.event)

    def _tell_outdated(self, facts: Facts, message: str) -> None:
        """Nothing about this job is wrong. The same Event is posted but once."""
        logger.warning("%s", message, extra={"job": str(facts.key)})
        reason, now = Reason.CRD_OUTDATED.value, facts.now
        self._announce(
            build_event(
                facts.key, facts.job.uid, warning=True, reason=reason, message=message, now=now
            )
        )

    async def _carry_out(self, facts: Facts, action: Action) -> None:
        key, uid, stores = facts.key, facts.job.uid, self._gatherer.stores
        what = action.verb.value, action.kind, action.name
        logger.info("%s %s %s", *what, extra={"job": str(key)})
        match action.verb:
            case Verb.ENSURE if action.manifest:
                await self._cluster.ensure(action.manifest, uid, fresh=action.fresh)
            case Verb.CREATE if action.manifest:
                stores.child_jobs.put(await self._cluster.create_job(action.manifest, uid))
            case Verb.DELETE:
                await self._cluster.delete(action.kind, key, action.name, action.uid, uid)
                gone = stores.child_jobs.get(key, action.name) if action.kind == "Job" else None
                if gone is not None and gone.uid == action.uid:
                    stores.child_jobs.put(replace(gone, version=gone.version + 1, deleting=True))

    def _remember(self, key: Key, refusal: Refused | Forbidden) -> bool:
        """Keep the API server's no for the next decision. Returns whether it is news."""
        stalled = isinstance(refusal, (NameConflict, Forbidden))
        obstacle = Obstacle(refusal.reason, str(refusal), stalled=stalled)
        known = self._refusals.get(key)
        self._refusals[key] = obstacle
        return known != obstacle

    def _forget(self, key: Key) -> None:
        """The FineTuneJob is gone; the garbage collector sees to its children."""
        self._refusals.pop(key, None)
        self._gatherer.forget(key)
