"""Gathering the facts of a pass: from the stores, and from the API server where it matters."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from .api.types import FineTuneJobStatus, ModelCheckpoint, Phase, StageName
from .api.workers import MAX_WORKERS
from .cluster import Children, Cluster
from .engine.dropped import DroppedFields
from .engine.evidence import Evidence
from .engine.store import Key, Store, Stored
from .errors import ClusterError, Fault, Forbidden, InvalidSpec
from .observed import ChildJob, ChildPod, Observed, StoredJob
from .plan import Platform, TrainingPlan, plan_training
from .policies.ancestry import output_of
from .policies.facts import Facts, NamespaceBudget, Obstacle, PublishedResult
from .policies.gpu_budget import CONFIG_MAP, read_hours
from .policies.human import wants_ratings
from .policies.pending import claims_waited_for, warning_about
from .policies.queue import held_by_queue
from .policies.ratings import Ratings, read_ratings
from .policies.reuse import published_result, wants_results
from .policies.validity import Claim, Surroundings, find_obstacle
from .progress import ProgressBoard
from .sources import ResolvedOutput, named_job

S = TypeVar("S", bound=Stored)
Planned = tuple[TrainingPlan | None, tuple[Fault, ...]]

REMEMBERED_PLANS = 64
"""A pass asks for the same plan several times; a few jobs are worked on side by side."""
LOOKUP_SECONDS = 5.0
"""How long an answer about a claim or an event counts: hundreds of jobs share a claim."""
BUDGET_SECONDS = 20.0
"""How long one about the budget of a namespace counts, which running jobs ask for all the time."""


@dataclass(frozen=True)
class Stores:
    """What the watches told, cut down."""

    jobs: Store[StoredJob] = field(default_factory=Store)
    child_jobs: Store[ChildJob] = field(default_factory=Store)
    child_pods: Store[ChildPod] = field(default_factory=Store)
    evidence: Evidence[ChildPod] = field(default_factory=lambda: Evidence(per_owner=MAX_WORKERS))
    """Ended pods, by the UID of their Kubernetes Job."""

    def keep_last_words(self, pods: Iterable[ChildPod]) -> None:
        """For everybody who has read pods, in whichever way, before they go into the store: a watch
        that was cut never tells of a pod that ended and went meanwhile, and one reading of it may
        be the only one. What the store knows already was kept then."""
        for pod in pods:
            known = self.child_pods.get(pod.key, pod.name)
            news = known is None or known.uid != pod.uid or known.version < pod.version
            if news and (pod.terminated or pod.disruption or pod.overfull):
                self.evidence.add(pod.job_uid, pod.name, pod, pod.version)


class Gatherer:
    """Reads facts; decides nothing."""

    def __init__(
        self,
        cluster: Cluster,
        stores: Stores,
        board: ProgressBoard,
        platform: Platform,
        clock: Callable[[], datetime],
    ) -> None:
        self._cluster = cluster
        self.stores = stores
        self._board = board
        self._platform = platform
        self._clock = clock
        self._since = clock()
        self.dropped = DroppedFields(clock)
        self._answers: dict[tuple[str, str, str], tuple[float, asyncio.Future[Any]]] = {}
        self._plans: OrderedDict[str, tuple[tuple[Any, ...], Planned]] = OrderedDict()

    async def facts(self, key: Key, refusal: Obstacle | None) -> Facts | None:
        """The facts as the stores have them; None: there is no such job."""
        job = self.stores.jobs.get(key, key.name)
        if job is None:
            return None
        children = self.stores.child_jobs.of(key), self.stores.child_pods.of(key)
        return await self._facts(job, *children, refusal)

    async def confirmed(self, facts: Facts, *, job_is_fresh: bool) -> Facts | None:
        """The same from the API server: ``facts`` itself where that has nothing new.

        None: the job is gone.
        """
        key, job = facts.key, facts.job
        if not job_is_fresh:
            newest = await self._cluster.job(key)
            if newest is None or newest.uid != job.uid:
                return None
            job = newest
            self.stores.jobs.put(job)
        self._learn(key, await self._cluster.children(key))
        children = self.stores.child_jobs.of(key), self.stores.child_pods.of(key)
        if job.version == facts.job.version and children == facts.children:
            return facts
        return await self._facts(job, *children, facts.refusal)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._board.forget(key)
        for child in self.stores.child_jobs.of(key):
            self.stores.evidence.forget(child.uid)

    async def _facts(
        self,
        job: StoredJob,
        jobs: tuple[ChildJob, ...],
        pods: tuple[ChildPod, ...],
        refusal: Obstacle | None,
    ) -> Facts:
        status = read_status(job.status)
        plan, faults = self._plan(job, status)
        heard = self._board.get(job.key, job.uid)
        facts = Facts(
            job=job,
            status=status,
            plan=plan,
            faults=faults,
            observed=Observed(jobs, pods),
            now=self._clock(),
            refusal=refusal,
            progress=heard.report if heard else None,
            heard=heard.at if heard else None,
            dropped=self.dropped.paths,
            listening_since=self._since,
        )
        if plan is not None and wants_ratings(facts):
            said = await self._ask("ratings", job.key.namespace, plan.ratings_name)
            ratings = Ratings(faults=(said.message,)) if isinstance(said, Obstacle) else said
            facts = replace(facts, ratings=ratings)
        if plan is None or status.completion_time is not None:
            return facts
        observed = facts.observed
        attempt_uid = facts.stage.job.uid if facts.stage.job else facts.stage.job_uid
        if attempt_uid:
            observed = replace(observed, last_words=self.stores.evidence.of(attempt_uid))
        if uid := warning_about(facts):
            said = await self._ask("warning", job.key.namespace, uid)
            warning = (said.reason, said.message) if isinstance(said, Obstacle) else said
            observed = replace(observed, warning=warning)
        if names := claims_waited_for(facts):
            found = [(name, await self._ask("claim", job.key.namespace, name)) for name in names]
            unbound = (name for name, it in found if isinstance(it, Claim) and not it.bound)
            observed = replace(observed, unbound=tuple(unbound))
        if held_by_queue(facts) and facts.stage.job is not None:
            admission = await self._ask("admission", job.key.namespace, facts.stage.job.uid)
            observed = replace(observed, admission=admission)
        budget = await self._namespace_budget(facts, plan)
        unread = budget if isinstance(budget, Obstacle) else None
        if not isinstance(budget, Obstacle):
            facts = replace(facts, namespace_budget=budget)
        if wants_results(facts):
            facts = replace(facts, results=self._results(job))
        obstacle = None
        if facts.stage.job is None and not plan.spec.suspend:
            obstacle = unread or await self._obstacle(facts, plan)
        return replace(facts, observed=observed, obstacle=obstacle)

    def _plan(self, job: StoredJob, status: FineTuneJobStatus) -> Planned:
        outputs: dict[str, ResolvedOutput] = {}
        source = self._source_job(job.key, job.spec)
        if source is not None:
            found = output_of(source, read_status(source.status), _checkpoint(job.spec))
            if isinstance(found, ResolvedOutput):
                outputs[source.name] = found
        told = status.lock, status.reused, status.human_evaluation, status.scorers
        inputs = job.spec, status.resolved, told, outputs
        known, planned = self._plans.get(job.uid, (None, (None, ())))
        if known == inputs:
            return planned
        try:
            plan = plan_training(job.key, job.uid, job.spec, status, self._platform, outputs)
            planned = plan, ()
            # Once it is written, what was resolved leads to the same plan again.
            inputs = job.spec, plan.resolved, told, outputs
        except InvalidSpec as error:
            planned = None, error.faults
        self._plans[job.uid] = inputs, planned
        if len(self._plans) > REMEMBERED_PLANS:
            self._plans.popitem(last=False)
        return planned

    def _source_job(self, key: Key, spec: Mapping[str, Any]) -> StoredJob | None:
        name = named_job(spec)
        return self.stores.jobs.get(Key(key.namespace, name), name) if name else None

    def _results(self, job: StoredJob) -> tuple[PublishedResult, ...]:
        """What other jobs of the namespace have published."""
        there = (
            other
            for other in self.stores.jobs
            if other.key.namespace == job.key.namespace and other.uid != job.uid
        )
        found = (
            published_result(other, read_status(other.status))
            for other in there
            if other.phase == Phase.SUCCEEDED and not other.deleting
        )
        return tuple(result for result in found if result is not None)

    async def _namespace_budget(
        self, facts: Facts, plan: TrainingPlan
    ) -> NamespaceBudget | Obstacle | None:
        if facts.stage.name is not StageName.TRAIN or not plan.spec.workers.gpus_per_worker:
            return None
        key = plan.key
        hours = await self._ask("budget", key.namespace, CONFIG_MAP)
        if hours is None or isinstance(hours, Obstacle):
            return hours
        there = (job for job in self.stores.jobs if job.key.namespace == key.namespace)
        used = sum(job.gpu_seconds for job in there if job.key != key)
        return NamespaceBudget(read_hours(hours), used)

    async def _obstacle(self, facts: Facts, plan: TrainingPlan) -> Obstacle | None:
        """What stands in the way of the stage's pods."""
        around = await self._surroundings(plan)
        if isinstance(around, Obstacle):
            return around
        return find_obstacle(plan, facts.stage.name, around)

    async def _surroundings(self, plan: TrainingPlan) -> Surroundings | Obstacle:
        namespace = plan.key.namespace
        names = {use.name for use in plan.claim_uses}
        claims: dict[str, Claim | None] = {}
        for name in sorted(names):
            claim = await self._ask("claim", namespace, name)
            if isinstance(claim, Obstacle):
                return claim
            claims[name] = claim
        keys: frozenset[str] | None = frozenset()
        if plan.spec.model.chat_template:
            reference = plan.spec.model.chat_template.config_map_key_ref
            found = await self._ask("config_map", namespace, reference.name)
            if isinstance(found, Obstacle):
                return found
            keys = found
        source = self._source_job(plan.key, {"model": {"uri": plan.spec.model.uri}})
        fault = source and output_of(source, read_status(source.status), plan.spec.model.checkpoint)
        return Surroundings(
            claims=claims,
            template_keys=keys,
            source_phase=(source.phase or Phase.PENDING.value) if source else None,
            source_fault=fault if isinstance(fault, str) else None,
        )

    async def _ratings(self, namespace: str, name: str) -> Ratings | None:
        data = await self._cluster.config_map(namespace, name)
        return None if data is None else read_ratings(data)

    async def _ask(self, what: str, namespace: str, name: str) -> Any:
        """A live read whose answer counts for a few seconds; who asks meanwhile shares it.

        An ``Obstacle``: the operator may not read this.
        """
        asked, now = (what, namespace, name), time.monotonic()
        counts = BUDGET_SECONDS if what == "budget" else LOOKUP_SECONDS
        since, answer = self._answers.get(asked, (-counts, None))
        if answer is None or now - since >= counts:
            read = {
                "claim": self._cluster.claim,
                "config_map": self._cluster.config_map_keys,
                "budget": self._cluster.gpu_hours,
                "ratings": self._ratings,
                "warning": self._cluster.newest_warning,
                "admission": self._cluster.admission,
            }[what]
            if len(self._answers) > 1000:
                self._answers.clear()
            answer = asyncio.ensure_future(_allowed(read(namespace, name)))
            self._answers[asked] = now, answer
        try:
            return await answer
        except ClusterError:
            self._answers.pop(asked, None)
            raise

    def _learn(self, key: Key, found: Children) -> None:
        """What was read live is at least as new as the stores, but for what came after it."""
        stores = self.stores
        stores.keep_last_words(found.pods)
        self._take_over(stores.child_jobs, stores.child_jobs.of(key), found.jobs, found.version)
        self._take_over(stores.child_pods, stores.child_pods.of(key), found.pods, found.version)

    @staticmethod
    def _take_over(store: Store[S], known: Iterable[S], found: Iterable[S], version: int) -> None:
        present = set()
        for item in found:
            present.add(item.uid)
            store.put(item)
        for item in known:
            if item.uid not in present and item.version <= version:
                store.remove(item)


async def _allowed(read: Awaitable[Any]) -> Any:
    """The answer; an ``Obstacle`` where the operator's role does not let it ask."""
    try:
        return await read
    except Forbidden as error:
        return Obstacle(error.reason, str(error), stalled=True)


def read_status(raw: Mapping[str, Any]) -> FineTuneJobStatus:
    """The stored status; a part that somebody spoilt counts as absent."""
    try:
        return FineTuneJobStatus.model_validate(raw)
    except ValidationError as error:
        spoilt = {fault["loc"][0] for fault in error.errors()}
        return FineTuneJobStatus.model_validate(
            {name: value for name, value in raw.items() if name not in spoilt}
        )


def _checkpoint(spec: Mapping[str, Any]) -> ModelCheckpoint | None:
    """``spec.model.checkpoint`` of a raw spec; what is wrong with it is told by the plan."""
    model = spec.get("model")
    wish = model.get("checkpoint") if isinstance(model, Mapping) else None
    try:
        return None if wish is None else ModelCheckpoint.model_validate(wish)
    except ValidationError:
        return None
