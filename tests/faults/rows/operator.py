"""The operator itself is the victim: killed after each write, killed at random, doubled."""

from __future__ import annotations

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faults.ground import Ground
from faults.host_operator import HostOperator
from faults.matrix import Outcome, row
from faults.site import TERMINAL, Site
from faults.specs import LOST_PEER, UNKNOWN, failing

LANES = 4
SOME_WRITES = (2, 6, 9, 13, 17)
"""Of the short form: while it prepares, starts, fails, starts again, and exports."""
LIFE_SECONDS = 180
QUIET_SECONDS = 1.5
"""So long after the end of a job there may be another write: an Event."""


@row(
    "operator-each-write",
    "operator killed after the k-th API write, for every k of a life with one failure",
    "same end state, no second gang, no extra restart",
)
def each_write(ground: Ground) -> Outcome:
    numbers = itertools.count(1) if ground.whole else iter(SOME_WRITES)
    lanes = LANES if ground.whole else len(SOME_WRITES)
    ends: dict[int, dict[str, Any]] = {}
    beyond = threading.Event()
    """A life was over before its write came: there are no more."""

    def lane(number: int) -> None:
        site = ground.site(f"-{number}")
        with ground.operator(site) as (operator, door):
            if number == 0:
                site.create("k0", steps=8, **failing(UNKNOWN, attempts=1))
                site.wait_ended(["k0"], seconds=LIFE_SECONDS)
                ends[0] = end_state(site, "k0")
            while not beyond.is_set() and (k := next(numbers, 0)):

                def kill(count: int, k: int = k) -> bool:
                    if count == k:
                        operator.kill()
                    return count == k

                time.sleep(QUIET_SECONDS)
                kills, door.writes, door.after_write = operator.kills, 0, kill
                site.create(f"k{k}", steps=8, **failing(UNKNOWN, attempts=1))
                ended(site, operator, f"k{k}")
                door.after_write = None
                if operator.kills == kills:
                    beyond.set()
                else:
                    ends[k] = end_state(site, f"k{k}")

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lane, range(lanes)))
    assert len(ends) > (12 if ground.whole else 4), f"a life has more writes than {sorted(ends)}"
    different = {k: end for k, end in ends.items() if end != ends[0]}
    assert not different, (ends[0], different)
    return Outcome(len(ends) - 1, f"k = {', '.join(str(k) for k in sorted(ends) if k)}")


def ended(site: Site, operator: HostOperator, name: str) -> None:
    """Until the job is over; the operator is started whenever it is down."""

    def over() -> bool:
        if not operator.running():
            operator.start()
        return site.phase(name) in TERMINAL

    site.wait(lambda: f"the end of {site.summary()}", over, LIFE_SECONDS)
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        operator.start()
        time.sleep(0.1)


def end_state(site: Site, name: str) -> dict[str, Any]:
    """What must be the same however often the operator died, without times and names of pods."""
    status = site.statuses()[name]
    kept = ("phase", "prepareAttempt", "attempt", "exportAttempt", "restarts", "resumedFrom")
    return {
        **{field: status.get(field) for field in kept},
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
        "failures": [(f["class"], f["attempt"], f["budget"]) for f in status["pastFailures"]],
        "children": sorted(
            f"{kind} {item['metadata']['name'].removeprefix(name)}"
            for kind in ("Job", "Service", "ConfigMap")
            for item in site.list(kind)
            if item["metadata"]["name"].startswith((f"{name}-", name))
            and name == (item["metadata"].get("labels") or {}).get("finetune.dev/job")
        ),
    }


@row(
    "operator-kills",
    "operator kill -9 at random moments, jobs that fail again and again",
    "no violation",
)
def kills(ground: Ground) -> Outcome:
    wanted, side_by_side, attempts = (200, 8, 6) if ground.whole else (15, 4, 2)
    site, numbers, living = ground.site(), itertools.count(), set[str]()
    dice = random.Random(1)
    with ground.operator(site) as (operator, _):
        while operator.kills < wanted:
            found = site.statuses()
            living = {name for name in living if found[name].get("phase") not in TERMINAL}
            while len(living) < side_by_side:
                number = next(numbers)
                code = (UNKNOWN, LOST_PEER)[number % 2]
                living.add(f"job-{number:02}")
                site.create(f"job-{number:02}", steps=8, **failing(code, attempts=attempts))
            if dice.random() < 0.4:
                time.sleep(dice.uniform(0, 1.5))  # while it starts
            else:
                site.wait(lambda: "an operator that watches", operator.ready, 60, 0.1)
                time.sleep(dice.uniform(0, 2))
            operator.kill()
            operator.reap()
            operator.start()
        site.wait_ended(seconds=600)
        return Outcome(operator.kills, f"{side_by_side} jobs side by side")


@row("two-operators", "two operators at once for 60 s", "no violation")
def two_operators(ground: Ground) -> Outcome:
    seconds, attempts = (60, 5) if ground.whole else (15, 1)
    site = ground.site()
    with ground.operator(site):
        with ground.operator(site, 1):
            for number in range(4):
                code = (UNKNOWN, LOST_PEER)[number % 2]
                site.create(f"job-{number}", steps=8, **failing(code, attempts=attempts))
            time.sleep(seconds)
        site.wait_ended()
    return Outcome(note=f"{seconds} s together, {ground.refused(409)} conflicts")
