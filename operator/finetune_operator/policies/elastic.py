"""How many workers the next attempt has: fewer while there is no room, more after a good while.

Nobody is asked beforehand whether there is room: nodes are not for a namespaced operator to read,
and a free place may be gone a second later. So a larger gang is tried. That costs a checkpoint, a
restart and, in vain, the time of waiting for nodes; hence ``AGAINST_GROWTH``, and a time between
tries that doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ..api.redaction import redact
from ..api.types import (
    ConditionType,
    Elastic,
    Phase,
    Reason,
    Resize,
    Restarts,
    StageName,
)
from ..gang_size import ELASTIC
from ..plan import TrainingPlan
from .deadline import seconds_left
from .facts import Facts
from .pending import explain

LONGEST_WAIT_SECONDS = 86_400
MAX_RESIZES_TOLD = 10
NO_ROOM = (Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED)
"""Causes of waiting that fewer pods would not have."""


def seconds_until_fewer(facts: Facts) -> float | None:
    """Seconds after which a gang that is not placed does with fewer; None: it never does. Only for
    gangs that are not ready."""
    elastic, job = facts.spec.recovery.elastic, facts.stage.job
    if elastic is None or facts.stage.name is not StageName.TRAIN or not facts.stage.live:
        return None
    if job is None or job.suspended:  # it waits in a queue for all of its pods together
        return None
    patience = min(elastic.shrink_after_seconds, facts.spec.start_deadline_seconds)
    return patience - facts.seconds_since(job.started or job.created)


def fewer(facts: Facts) -> Resize | None:
    """The size of which every pod has found a node; None: nodes are not what is missing, or so few
    may not train."""
    plan, cause = facts.known_plan, explain(facts)[0]
    if cause is None or cause.reason not in NO_ROOM or _resizes_left(facts) < 1:
        return None
    placed = sum(bool(pod.node) and not pod.finished for pod in facts.stage.pods)
    size = max((n for n in plan.sizes if n <= placed), default=None)
    if size is None or size >= _present(plan):
        return None
    return _resize(facts, size, cause.sentence)


def seconds_until_more(facts: Facts) -> float | None:
    """Seconds after which a gang that trains ends to become larger; None: something else than time
    stands against it."""
    elastic = facts.plan.spec.recovery.elastic if facts.plan else None
    if elastic is None or any(against(facts, elastic) for against in AGAINST_GROWTH):
        return None
    ready = next(c for c in facts.status.conditions if c.type == ConditionType.GANG_READY)
    return growth_wait(facts, elastic) - facts.seconds_since(ready.last_transition_time)


def more(facts: Facts) -> Resize | None:
    """The largest size that may do; None: it is that large."""
    plan = facts.known_plan
    if not plan.sizes or plan.sizes[-1] <= _present(plan):
        return None
    size = plan.sizes[-1]
    return _resize(facts, size, f"room for {size} is looked for again")


def at_boundary(facts: Facts) -> Resize | None:
    """A change of size that costs no attempt, because one has just ended by itself."""
    plan, elastic = facts.known_plan, facts.spec.recovery.elastic
    size, sizes = _present(plan), plan.sizes
    if facts.stage.name is not StageName.TRAIN:
        return None
    if sizes and size not in sizes:
        nearest = max((n for n in sizes if n < size), default=sizes[0])
        return _resize(facts, nearest, f"{ELASTIC} no longer allows {size}")
    if elastic is None or _resizes_left(facts) < 2 or facts.live_pods:
        return None
    last = _last(facts)
    since = last.at if last and last.at else facts.status.prepared
    if since is None or facts.seconds_since(since) < growth_wait(facts, elastic):
        return None
    return more(facts)


def after_sleep(facts: Facts) -> Resize | None:
    """Training that was suspended goes on with as many workers as the job names."""
    plan = facts.known_plan
    if facts.stage.name is not StageName.TRAIN:
        return None
    if _present(plan) >= plan.wanted or plan.wanted not in plan.sizes:
        return None
    return _resize(facts, plan.wanted, "resumed with workers.count")


def growth_wait(facts: Facts, elastic: Elastic) -> float:
    """Seconds between a size and a try with a larger one: twice as many after each larger size at
    which no step was done."""
    resizes = facts.known_plan.resolved.resizes or ()
    vain = sum(
        _grows(one) and not _grows(other) and (other.step or 0) <= (one.step or 0)
        for one, other in pairwise(resizes)
    )
    return min(LONGEST_WAIT_SECONDS, elastic.grow_after_seconds * 2.0 ** min(vain, 20))


def resize_changes(facts: Facts, resize: Resize, *, counted: bool = True) -> dict[str, Any]:
    """The status fields that remember a change of size: the next plan rests on them."""
    resolved = facts.known_plan.resolved
    resizes = with_another(resolved.resizes, resize)
    changes: dict[str, Any] = {"resolved": resolved.model_copy(update={"resizes": resizes})}
    if counted:
        changes["restarts"] = with_resize(facts.status.restarts)
    return changes


def with_another(resizes: tuple[Resize, ...] | None, resize: Resize) -> tuple[Resize, ...]:
    """The newest of them."""
    return (*(resizes or ()), resize)[-MAX_RESIZES_TOLD:]


def with_resize(restarts: Restarts | None) -> Restarts:
    """One more change of size."""
    known = restarts or Restarts()
    return known.model_copy(update={"resizes": (known.resizes or 0) + 1})


def tell_size(plan: TrainingPlan) -> str:
    """Of how many workers the gang is, for a sentence; empty where it is as large as wished."""
    size, wanted = _present(plan), plan.wanted
    if size == wanted:
        return ""
    return f"{size} of {wanted} workers" if size < wanted else f"{size} workers, {wanted} wanted"


# --- against growth ---


def is_as_large_as_it_gets(facts: Facts, elastic: Elastic) -> bool:
    """No larger size may do."""
    return more(facts) is None


def queues(facts: Facts, elastic: Elastic) -> bool:
    """It would give back quota that it has, and might wait for more of it for ever."""
    return facts.spec.queue is not None


def would_be_the_last_resize(facts: Facts, elastic: Elastic) -> bool:
    """A larger gang that finds no room must be able to shrink again."""
    return _resizes_left(facts) < 2


def does_not_train(facts: Facts, elastic: Elastic) -> bool:
    """No gang that is whole, known to train, and there to stay."""
    training = facts.status.phase is Phase.TRAINING and facts.stage.live and facts.trains
    return not training or facts.condition(ConditionType.GANG_READY)[0] != "True"


def got_nowhere(facts: Facts, elastic: Elastic) -> bool:
    """Fewer steps since the last change of size than lie between two checkpoints."""
    last = _last(facts)
    done = _step(facts) - ((last.step or 0) if last else 0)
    return done < (facts.spec.checkpoint.every_steps or 1)


def is_nearly_done(facts: Facts, elastic: Elastic) -> bool:
    """What is left, or allowed, takes less time than a gang has to train before it grows."""
    eta = facts.status.progress.eta_seconds if facts.status.progress else None
    ends = (eta, seconds_left(facts))
    return any(left is not None and left < elastic.grow_after_seconds for left in ends)


AGAINST_GROWTH: tuple[Callable[[Facts, Elastic], bool], ...] = (
    is_as_large_as_it_gets,
    queues,
    would_be_the_last_resize,
    does_not_train,
    got_nowhere,
    is_nearly_done,
)


def _present(plan: TrainingPlan) -> int:
    return plan.pods(StageName.TRAIN)


def _last(facts: Facts) -> Resize | None:
    resizes = facts.known_plan.resolved.resizes
    return resizes[-1] if resizes else None


def _grows(resize: Resize) -> bool:
    return (resize.workers or 0) > (resize.workers_before or 0)


def _step(facts: Facts) -> int:
    return (facts.status.progress.step or 0) if facts.status.progress else 0


def _resizes_left(facts: Facts) -> int:
    elastic, restarts = facts.spec.recovery.elastic, facts.status.restarts
    return elastic.max_resizes - ((restarts and restarts.resizes) or 0) if elastic else 0


def _resize(facts: Facts, size: int, reason: str) -> Resize:
    plan = facts.known_plan
    return Resize(
        attempt=facts.stage.attempt,
        workers_before=_present(plan),
        workers=size,
        wanted=plan.wanted,
        step=_step(facts),
        reason=redact(reason)[:1024],
        at=facts.now,
    )
