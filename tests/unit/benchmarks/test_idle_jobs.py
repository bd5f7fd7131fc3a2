"""Edits of idle jobs, timed against an API that answers after a known while."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import idle_jobs
from benchmarks.idle_jobs import (
    FAILING,
    IdleJobs,
    buckets_of,
    histogram_percentile,
    percentile,
    rows,
)

HISTOGRAM = """# TYPE finetune_operator_reconcile_seconds histogram
finetune_operator_reconcile_seconds_bucket{le="0.01"} %d.0
finetune_operator_reconcile_seconds_bucket{le="0.1"} %d.0
finetune_operator_reconcile_seconds_bucket{le="+Inf"} %d.0
finetune_operator_reconcile_seconds_count 8.0
"""


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 99, 3.0), (list(range(1, 101)), 99, 99), (list(range(1, 101)), 50, 50)],
)
def test_a_percentile_is_one_of_the_values(values: Any, share: float, expected: float) -> None:
    assert percentile(values[::-1], share) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((109, 600, 1100), 0.01),  # the last of the first 99
        ((108, 600, 1100), 0.1 - 0.09 / 2),  # the first of two in the second bucket
        ((10, 600, 1100), 0.1 - 0.09 / 100),
        ((10, 598, 1100), 0.1),  # beyond the last bound
    ],
)
def test_a_percentile_of_a_histogram_counts_only_what_came_in_between(
    after: tuple[int, int, int], expected: float
) -> None:
    before = buckets_of(HISTOGRAM % (10, 500, 1000), idle_jobs.PASSES)
    assert before == {0.01: 10, 0.1: 500, math.inf: 1000}
    found = histogram_percentile(before, buckets_of(HISTOGRAM % after, idle_jobs.PASSES), 99)
    assert found == pytest.approx(expected)


class Api:
    """Takes edits, and tells of a verdict ``delay`` seconds later."""

    def __init__(self, delay: float) -> None:
        self.delay, self.generation = delay, 1
        self.events: queue.Queue[Any] = queue.Queue()
        self.edited: list[tuple[str, int]] = []
        self.jobs = [job("uid-0")]

    def patch_namespaced_custom_object(self, *place: Any, _content_type: str) -> Any:
        *_, name, body = place
        assert _content_type == "application/merge-patch+json"
        self.generation += 1
        self.edited.append((name, body["spec"]["activeDeadlineSeconds"]))
        status = {"observedGeneration": self.generation}
        event = {"object": {"metadata": {"name": name}, "status": status}}
        threading.Timer(self.delay, self.events.put, [event]).start()
        return {"metadata": {"generation": self.generation}}

    def list_namespaced_custom_object(self, *_: Any) -> None: ...

    def list_namespaced_job(self, _: str, label_selector: str) -> Any:
        assert label_selector == f"finetune.dev/job={FAILING}"
        return SimpleNamespace(items=list(self.jobs))

    def delete_namespaced_job(self, name: str, *_: Any, **__: Any) -> None:
        """The operator makes the next one."""
        self.delay = 0.06
        self.jobs = [job(f"uid-{int(name[-1]) + 1}")] if name != "failing-p2" else []

    def stream(self, *_: Any) -> Iterator[Any]:
        while True:
            yield self.events.get()

    def stop(self) -> None: ...


def job(uid: str) -> Any:
    return SimpleNamespace(metadata=SimpleNamespace(uid=uid, name=f"failing-p{uid[-1]}"))


def test_edits_are_timed_with_and_without_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(delay=0.02)
    monkeypatch.setattr(idle_jobs.client, "CustomObjectsApi", lambda _: api)
    monkeypatch.setattr(idle_jobs.client, "BatchV1Api", lambda _: api)
    monkeypatch.setattr(idle_jobs.watch, "Watch", lambda: api)
    monkeypatch.setattr(idle_jobs, "SECONDS", 0.4)
    counts = iter([(0, 0, 0), (10, 10, 10), (10, 110, 110)])
    began = time.monotonic()
    found = IdleJobs(None, "idle", ["a", "b"], lambda: HISTOGRAM % next(counts)).run()
    assert time.monotonic() - began < 10
    assert {name for name, _ in api.edited} == {"a", "b"}
    values = [value for _, value in api.edited]
    assert len(set(values)) == len(values), "each edit changes something"
    assert found.jobs == 2 and found.failures == 3
    assert found.quiet_passes == pytest.approx(0.0099) and found.passes == pytest.approx(0.0991)
    assert found.quiet >= 0.02 and found.beside_failures >= 0.06
    first, second, end = rows(found).split("\n")
    assert first.count("|") == second.count("|") == 4 and not end
    assert "another one fails 3 times" in first and "| 10 ms; 99 ms |" in second
