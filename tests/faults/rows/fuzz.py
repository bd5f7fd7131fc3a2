"""Thousands of strange FineTuneJobs, and statuses that somebody else has spoilt."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faults.fuzz import Fuzzer
from faults.ground import Ground
from faults.host_operator import HostOperator
from faults.matrix import Outcome, row
from faults.site import Site

from local_cluster.api import MERGE_PATCH

BATCH = 250
IN_FLIGHT = 4
REFUSALS = (400, 413, 422)
SPOILT_EVERY = 5
QUEUE = "finetune_operator_queue"


@row(
    "fuzz",
    "10,000 fuzzed FineTuneJobs, right and wrong, one in five with a status that somebody spoilt",
    "no crash, no stuck queue, each with a verdict",
)
def fuzz(ground: Ground) -> Outcome:
    site, wanted = ground.site(), 10_000 if ground.whole else 200
    # A verdict is asked for, no pods: thousands of them would be another test.
    hard = {"count/jobs.batch": "0", "persistentvolumeclaims": "2"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-jobs"},
        "spec": {"hard": hard},
    }
    ground.kubectl.apply(quota, namespace=site.namespace)
    fuzzer, codes, reasons = Fuzzer(seed=1), Counter[int](), Counter[str]()
    with ground.operator(site) as (operator, _):
        for first in range(0, wanted, BATCH):
            numbers = range(first, min(first + BATCH, wanted))
            batch = [fuzzer.job(f"fuzz-{number:05}") for number in numbers]
            codes.update(created(site, batch))
            reasons.update(judged(site, operator))
            spoil(site, fuzzer)
            settled(site, operator)
            swept(site)
        assert not operator.errors(), operator.errors()[:3]
    assert set(codes) <= {201, *REFUSALS}, codes
    assert codes[201] > wanted / 10 and codes[422] > wanted / 10, f"too one-sided: {codes}"
    return Outcome(
        note=f"{wanted} objects: {codes[201]} accepted, the others refused; verdicts: "
        + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5)),
        spoilt=True,
    )


def created(site: Site, batch: list[dict[str, Any]]) -> list[int]:
    """Post them; returns the API server's answers. What it refuses, it refuses with a reason."""

    def post(body: dict[str, Any]) -> int:
        code, answer = site.api.call("POST", site.path("FineTuneJob"), body)
        if code != 201:
            assert json.loads(answer).get("message"), body
            assert code in REFUSALS, (code, answer, json.dumps(body))
        return code

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(post, batch))


def judged(site: Site, operator: HostOperator) -> list[str]:
    """Wait until every job has a verdict; returns their reasons."""

    def all_told() -> bool:
        return all(
            (job.get("status") or {}).get("observedGeneration") == job["metadata"]["generation"]
            for job in site.jobs().values()
        )

    site.wait(lambda: "a verdict for each", all_told, 120)
    assert operator.running()
    told = []
    for status in site.statuses().values():
        conditions = {c["type"]: c for c in status["conditions"]}
        assert conditions["Reconciling"]["reason"] and status["phase"], status
        told.append(conditions["Reconciling"]["reason"])
    return told


def spoil(site: Site, fuzzer: Fuzzer) -> None:
    """Write nonsense into some statuses; the API server refuses part of it."""
    for name in list(site.jobs())[::SPOILT_EVERY]:
        path = site.path("FineTuneJob", f"{name}/status")
        site.api.call("PATCH", path, {"status": fuzzer.status()}, MERGE_PATCH)


def settled(site: Site, operator: HostOperator) -> None:
    """The queue gets empty: nobody waits for ever, and nobody spins."""

    def empty() -> bool:
        return operator.metric(f"{QUEUE}_depth") + operator.metric(f"{QUEUE}_busy") == 0

    site.wait(lambda: "an empty queue", empty, 60)


def swept(site: Site) -> None:
    """Delete all; the next batch begins in an empty namespace."""
    site.api.json("DELETE", site.path("FineTuneJob"))
    site.wait(lambda: "an empty namespace", lambda: not site.jobs(), 120)
