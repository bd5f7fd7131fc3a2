"""What must hold whatever happens: each rule looks at the audit log and the cluster alone.

A rule yields one sentence for each violation. ``tests/unit/faults`` shows each of them a history
that breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from faults.audit import JOB_LABEL, UID_LABEL, Raw
from faults.history import COUNTERS, GARBAGE_COLLECTOR, KubernetesJob, Life, label, owners

AFTER_THE_END = ("childrenRemovedTime", "lostNodes", "observedGeneration")
"""Fields of the status that may change when the job is over: its time to live may be edited, and a
lost node may come back."""


@dataclass(frozen=True)
class Place:
    """Where the lives were led, and what is there now."""

    operator: str
    """User name of the operator."""
    listing: Collection[Raw] = ()
    """FineTuneJobs, Jobs, pods, Services and ConfigMaps at the end."""
    gives_up: bool = False
    """The operator may have ended attempts that nobody else called failed: of a hang, of a node
    that was lost, to change the size of a gang. It then counts some of what it deleted."""


Rule = Callable[[list[Life], Place], Iterator[str]]


def violations(all_lives: list[Life], place: Place) -> list[str]:
    """One sentence for each violation of any rule."""
    return [f"{rule.__name__}: {sentence}" for rule in RULES for sentence in rule(all_lives, place)]


def one_gang_at_a_time(all_lives: list[Life], place: Place) -> Iterator[str]:
    """Pods of two Jobs never live together, not even of two FineTuneJobs of one name."""
    by_name: dict[str, list[Life]] = {}
    for life in all_lives:
        by_name.setdefault(str(life), []).append(life)
    for name, namesakes in by_name.items():
        pods = [pod for life in namesakes for pod in life.pods.values()]
        for one, other in combinations(sorted(pods, key=lambda pod: pod.began), 2):
            if one.job_uid == other.job_uid:
                continue
            if one.gone is None or one.gone > other.began:
                yield f"{name}: pod {other.name} began while {one.name} lived"


def attempts_count_up_by_one(all_lives: list[Life], place: Place) -> Iterator[str]:
    for life in all_lives:
        for counter in COUNTERS.values():
            seen = [-1, *(s.status.get(counter, -1) for s in life.statuses)]
            for before, after in pairwise(seen):
                if after not in (before, before + 1):
                    yield f"{life}: {counter} went from {before} to {after}"


def one_job_for_an_attempt(all_lives: list[Life], place: Place) -> Iterator[str]:
    for life in all_lives:
        known: dict[tuple[str, int], KubernetesJob] = {}
        for job in life.jobs.values():
            first = known.setdefault((job.stage, job.attempt), job)
            if first is not job:
                yield f"{life}: {job.stage} attempt {job.attempt} has two Jobs"


def every_job_was_announced(all_lives: list[Life], place: Place) -> Iterator[str]:
    """The status had the number before there was a Job that bears it."""
    for life in all_lives:
        for job in life.jobs.values():
            told = life.status_at(job.began).get(COUNTERS.get(job.stage, ""))
            if told != job.attempt:
                yield f"{life}: Job {job.name} was created when the status said {told}"


def the_end_is_absorbing(all_lives: list[Life], place: Place) -> Iterator[str]:
    for life in all_lives:
        end = life.ended
        if end is None:
            continue
        for later in life.statuses:
            before, after = _lasting(end.status), _lasting(later.status)
            if later.revision > end.revision and before != after:
                changed = [
                    each
                    for each in sorted({*before, *after})
                    if before.get(each) != after.get(each)
                ]
                yield f"{life}: its status changed after its end: {', '.join(changed)}"
        for revision, kind, child in life.children:
            if revision > end.revision:
                yield f"{life}: {kind} {child['metadata']['name']} was created after its end"


def it_ends_when_its_pods_are_gone(all_lives: list[Life], place: Place) -> Iterator[str]:
    for life in all_lives:
        end = life.ended
        if end is None:
            continue
        for pod in life.pods.values():
            if pod.began < end.revision and (pod.gone is None or pod.gone > end.revision):
                yield f"{life}: was called ended while pod {pod.name} lived"


def restarts_are_counted_exactly(all_lives: list[Life], place: Place) -> Iterator[str]:
    """Of a job that is over: as many as attempts that failed and were not its last word."""
    for life in all_lives:
        for before, after in pairwise([0, *(_restarts(s.status) for s in life.statuses)]):
            if after not in (before, before + 1):
                yield f"{life}: restarts went from {before} to {after}"
        if life.ended is None:
            continue
        failed = [job for job in life.jobs.values() if _failed(job, place)]
        newest = max(life.jobs.values(), key=lambda job: job.began, default=None)
        last_word = life.status.get("phase") == "Failed" and newest in failed
        given_up = [job for job in life.jobs.values() if _given_up(job, place)]
        # The model goes on without a scorer that failed by itself.
        free = len(given_up) + sum(job.stage == "score" for job in failed)
        most = len(failed) - last_word + len(given_up)
        allowed = set(range(most - free, most + 1))
        if last_word and _reason(life.status) == "DeadlineExceeded":
            allowed.add(len(failed))  # it was to start again when its time was up
        if _restarts(life.status) not in allowed:
            yield f"{life}: {_restarts(life.status)} restarts, {len(failed)} attempts failed"


def children_have_the_right_owner(all_lives: list[Life], place: Place) -> Iterator[str]:
    for life in all_lives:
        for _, kind, child in life.children:
            meta = child["metadata"]
            if owners(meta) != (life.uid,) or label(child, JOB_LABEL) != life.name:
                yield f"{life}: {kind} {meta['name']} has another owner or label"
        for pod in life.pods.values():
            if pod.job_uid not in life.jobs:
                yield f"{life}: pod {pod.name} belongs to no Job of it"


def nothing_is_left_over(all_lives: list[Life], place: Place) -> Iterator[str]:
    """In the end: no child without its FineTuneJob, no pod that outlives the end of its job."""
    there = {raw["metadata"]["uid"]: raw for raw in place.listing}
    silent = {uid for life in all_lives for uid, pod in life.pods.items() if pod.silent}
    jobs = {uid: raw for uid, raw in there.items() if raw["kind"] == "FineTuneJob"}
    for raw in place.listing:
        if not (owner := label(raw, UID_LABEL)):
            continue
        what = f"{raw['kind']} {raw['metadata']['name']}"
        if owner not in jobs:
            yield f"{what} has outlived its FineTuneJob"
        elif raw["kind"] == "Pod" and "completionTime" in (jobs[owner].get("status") or {}):
            over = raw["status"].get("phase") in ("Succeeded", "Failed")
            if not over and raw["metadata"]["uid"] not in silent:
                yield f"{what} lives on although its job is over"


RULES: tuple[Rule, ...] = (
    one_gang_at_a_time,
    attempts_count_up_by_one,
    one_job_for_an_attempt,
    every_job_was_announced,
    the_end_is_absorbing,
    it_ends_when_its_pods_are_gone,
    restarts_are_counted_exactly,
    children_have_the_right_owner,
    nothing_is_left_over,
)


def _restarts(status: Raw) -> int:
    return int((status.get("restarts") or {}).get("total", 0))


def _failed(job: KubernetesJob, place: Place) -> bool:
    """It failed before anybody gave it up, or a stranger deleted it while it ran."""
    if job.failed is not None:
        return True
    ours = (place.operator, GARBAGE_COLLECTOR, "")
    return not job.finished and job.deleted is not None and job.deleted_by not in ours


def _given_up(job: KubernetesJob, place: Place) -> bool:
    """The operator deleted it before it had an end, for a reason that only the status tells."""
    return place.gives_up and not job.finished and job.deleted_by == place.operator


def _lasting(status: Raw) -> dict[str, Any]:
    """What may not change after the end."""
    kept = {name: value for name, value in status.items() if name not in AFTER_THE_END}
    kept["conditions"] = [_without_generation(c) for c in status.get("conditions") or ()]
    return kept


def _without_generation(condition: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in condition.items() if name != "observedGeneration"}


def _reason(status: Raw) -> str:
    conditions = status.get("conditions") or ()
    return next((c["reason"] for c in conditions if c["type"] == "Failed"), "")
