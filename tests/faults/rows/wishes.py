"""People edit, suspend, delete and create again, at every stage of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from faults.ground import Ground
from faults.matrix import Outcome, row
from faults.site import TERMINAL, Site
from faults.specs import UNKNOWN, failing

Status = Mapping[str, Any]
Until = Callable[[Status | None], Any]
"""What a story waits for; None: there is no such job."""
Story = Callable[[Site, str, Until, dict[str, Any]], Iterator[Until]]
PATIENCE_SECONDS = 300
SLOW = {"steps": 12, "seed": 6}


def over(status: Status | None) -> bool:
    return status is not None and status.get("phase") in TERMINAL


def reason(status: Status) -> str:
    told = {c["type"]: c["reason"] for c in status.get("conditions") or ()}
    return str(told.get("Reconciling", ""))


def phase(*names: str) -> Until:
    return lambda status: status is not None and status.get("phase") in names


STAGES: dict[str, Until] = {
    "new": lambda status: status is not None,
    "accepted": lambda status: status and "prepareAttempt" in status,
    "preparing": phase("Preparing"),
    "starting": lambda status: status and "attempt" in status,
    "training": lambda status: status and (status.get("progress") or {}).get("step"),
    "restarting": phase("Restarting"),
    "exporting": phase("Exporting"),
    "ended": over,
}
SOME_STAGES = ("preparing", "training", "restarting", "exporting")


def wish(stage: str) -> dict[str, Any]:
    """A job that passes through the stage slowly enough to be met there."""
    if stage == "training":
        slow_to_end = {"name": "TORCH_TEST_SAVE_SECONDS", "value": "6"}
        return {**SLOW, "workers": {"env": [slow_to_end]}}
    if stage != "restarting":
        return dict(SLOW)
    spec = failing(UNKNOWN, attempts=1)
    spec["recovery"]["backoffSeconds"] = {"initial": 6, "max": 6}
    return {**SLOW, **spec}


def fails_once(spec: Mapping[str, Any]) -> int:
    return int("recovery" in spec)


def suspended_and_resumed(
    site: Site, name: str, stage: Until, spec: dict[str, Any]
) -> Iterator[Until]:
    site.create(name, **spec)
    yield stage
    site.patch(name, suspend=True)
    yield phase("Suspended", *TERMINAL)
    asleep = site.statuses()[name]
    if asleep["phase"] == "Suspended":
        assert asleep["suspendTime"]
        assert not site.living_pods(name), "they were to be given back first"
    site.patch(name, suspend=False)
    yield over
    status = site.statuses()[name]
    restarts = (status.get("restarts") or {}).get("total", 0)
    assert (status["phase"], restarts) == ("Succeeded", fails_once(spec)), status


def edited(site: Site, name: str, stage: Until, spec: dict[str, Any]) -> Iterator[Until]:
    site.create(name, **spec)
    yield stage
    site.patch(name, activeDeadlineSeconds=3600, ttlSecondsAfterFinished=3000)
    yield over
    generation = site.jobs()[name]["metadata"]["generation"]
    yield lambda status: status and status["observedGeneration"] == generation
    status = site.statuses()[name]
    attempts = [status[c] for c in ("prepareAttempt", "attempt", "exportAttempt")]
    assert status["phase"] == "Succeeded", status
    assert attempts == [0, fails_once(spec), 0], "an edit ended an attempt"


def deleted(site: Site, name: str, stage: Until, spec: dict[str, Any]) -> Iterator[Until]:
    site.create(name, **spec)
    yield stage
    site.delete(name)
    yield lambda status: status is None


def created_again(site: Site, name: str, stage: Until, spec: dict[str, Any]) -> Iterator[Until]:
    site.create(name, **spec)
    yield stage
    before = site.jobs()[name]["metadata"]["uid"]
    site.delete(name)
    yield lambda status: status is None
    site.create(name, steps=2)
    if "TORCH_TEST_SAVE_SECONDS" in str(spec):  # the pods of its predecessor take their time
        yield lambda status: status and reason(status) == "PreviousJobTerminating"
    yield over
    now = site.jobs()[name]
    assert now["status"]["phase"] == "Succeeded", now["status"]
    assert now["metadata"]["uid"] != before


STORIES: tuple[Story, ...] = (suspended_and_resumed, created_again, edited, deleted)
SHORT_STORIES: tuple[Story, ...] = (suspended_and_resumed, created_again)


@row(
    "wishes",
    "FineTuneJob edited, suspended and resumed, deleted, created again with the same name, at "
    "every stage",
    "right children, none left over, no budget spent",
)
def wishes(ground: Ground) -> Outcome:
    site = ground.site()
    with ground.operator(site) as (operator, _):
        told = 0
        if ground.whole:
            for story in STORIES:
                told += tell(site, (story,), tuple(STAGES))
        else:
            told += tell(site, SHORT_STORIES, SOME_STAGES)
        assert not operator.errors(), operator.errors()
    return Outcome(note=f"{told} stories")


def tell(site: Site, stories: tuple[Story, ...], stages: tuple[str, ...]) -> int:
    """Let all these stories happen side by side; returns how many there were."""
    running: dict[str, tuple[Iterator[Until], Until]] = {}
    for story in stories:
        for stage in stages:
            name = f"{story.__name__.replace('_', '-')}-{stage}"
            telling = story(site, name, STAGES[stage], wish(stage))
            running[name] = telling, next(telling)
    count, deadline = len(running), time.monotonic() + PATIENCE_SECONDS
    while running:
        found = site.statuses()
        for name, (telling, until) in list(running.items()):
            if until(found.get(name)):
                following = next(telling, None)
                if following is None:
                    del running[name]
                else:
                    running[name] = telling, following
        assert time.monotonic() < deadline, f"no end: {site.summary(running)}"
        time.sleep(0.3)
    return count
