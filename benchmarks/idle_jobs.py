"""One of many idle FineTuneJobs fails again and again: what the others notice of it.

Each job waits for a prepare pod that fits on no node. One after another gets another deadline in
its spec, and a watch sees when its status has taken that into account: that is the whole way
through the operator, its queue included. Once while nothing else happens, and once while another
job of the namespace loses its child Job as soon as it has one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kubernetes import client, watch
from urllib3.exceptions import ProtocolError

GROUP = ("finetune.dev", "v1alpha1")
SECONDS = 60
"""So long are jobs edited, with and without failures."""
ANSWER_SECONDS = 30
PASSES = "finetune_operator_reconcile_seconds"
FAILING = "failing"


@dataclass(frozen=True)
class Idle:
    """What one run measured; times in seconds."""

    jobs: int
    quiet: float
    """99th percentile from an edit to its verdict in status."""
    beside_failures: float
    """The same while another job fails."""
    failures: int
    """How often it did."""
    quiet_passes: float
    """99th percentile of the operator's passes, as Prometheus estimates it from the buckets."""
    passes: float
    """The same while another job fails, whose own passes are among them."""

    @property
    def ratio(self) -> float:
        return self.beside_failures / self.quiet


class IdleJobs:
    """``jobs`` idle FineTuneJobs in ``namespace``, and ``FAILING`` among them."""

    def __init__(
        self, api: Any, namespace: str, names: Sequence[str], metrics: Callable[[], str]
    ) -> None:
        """``api``: a client of the cluster; ``metrics`` asks the operator for what it tells
        Prometheus."""
        self._place = (*GROUP, namespace, "finetunejobs")
        self._namespace, self._names, self._metrics = namespace, names, metrics
        self._custom: Any = client.CustomObjectsApi(api)
        self._batch: Any = client.BatchV1Api(api)
        self._seen: dict[str, tuple[int, float]] = {}
        self._news = threading.Condition()

    def run(self) -> Idle:
        """Edit, first while all is quiet, then beside failures."""
        with self._watching():
            start = buckets_of(self._metrics(), PASSES)
            quiet = self._answers(10_000)
            before = buckets_of(self._metrics(), PASSES)
            with self._failing() as failures:
                beside = self._answers(20_000)
            after = buckets_of(self._metrics(), PASSES)
        return Idle(
            jobs=len(self._names),
            quiet=percentile(quiet, 99),
            beside_failures=percentile(beside, 99),
            failures=failures(),
            quiet_passes=histogram_percentile(start, before, 99),
            passes=histogram_percentile(before, after, 99),
        )

    def _answers(self, first_deadline: int) -> list[float]:
        """Seconds from each edit to its verdict."""
        found: list[float] = []
        until = time.monotonic() + SECONDS
        for number, name in enumerate(itertools.cycle(self._names)):
            if time.monotonic() > until and number >= len(self._names):
                return found
            body = {"spec": {"activeDeadlineSeconds": first_deadline + number}}
            began = time.monotonic()
            edited = self._custom.patch_namespaced_custom_object(
                *self._place, name, body, _content_type="application/merge-patch+json"
            )
            found.append(self._answered(name, edited["metadata"]["generation"]) - began)
        raise AssertionError("there are no jobs")

    def _answered(self, name: str, generation: int) -> float:
        with self._news:
            there = self._news.wait_for(
                lambda: self._seen.get(name, (0, 0.0))[0] >= generation, ANSWER_SECONDS
            )
            if not there:
                raise TimeoutError(f"{name}: no verdict within {ANSWER_SECONDS} s")
            return self._seen[name][1]

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Note when the status of each job has come to a generation of its spec."""
        watcher: Any = watch.Watch()  # type: ignore[no-untyped-call]

        def read() -> None:
            stream = watcher.stream(self._custom.list_namespaced_custom_object, *self._place)
            # After the block nobody reads what is seen; the server may end before the watch does.
            with contextlib.suppress(ProtocolError):
                note(stream)

        def note(stream: Iterable[Any]) -> None:
            for event in stream:
                now, job = time.monotonic(), event["object"]
                generation = job.get("status", {}).get("observedGeneration", 0)
                name = job["metadata"]["name"]
                with self._news:
                    if generation > self._seen.get(name, (-1, 0.0))[0]:
                        self._seen[name] = generation, now
                        self._news.notify_all()

        threading.Thread(target=read, daemon=True).start()
        try:
            yield
        finally:
            watcher.stop()

    @contextmanager
    def _failing(self) -> Iterator[Callable[[], int]]:
        """``FAILING`` loses each of its Jobs, until the end of the block; how often it did."""
        done, gone = threading.Event(), set[str]()

        def fail() -> None:
            while not done.wait(0.1):
                found = self._batch.list_namespaced_job(
                    self._namespace, label_selector=f"finetune.dev/job={FAILING}"
                )
                for job in found.items:
                    if job.metadata.uid in gone:
                        continue
                    with contextlib.suppress(client.ApiException):  # the operator was faster
                        self._batch.delete_namespaced_job(
                            job.metadata.name, self._namespace, propagation_policy="Background"
                        )
                        gone.add(job.metadata.uid)

        thread = threading.Thread(target=fail, daemon=True)
        thread.start()
        try:
            yield lambda: len(gone)
        finally:
            done.set()
            thread.join()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` percent of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def buckets_of(text: str, name: str) -> dict[float, float]:
    """The cumulated counts of a histogram in the text that Prometheus reads, by upper bound."""
    found = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', text, re.MULTILINE)
    return {float(bound): float(count) for bound, count in found}


def histogram_percentile(
    before: dict[float, float], after: dict[float, float], share: float
) -> float:
    """The percentile of what came in between, by the rule of Prometheus' ``histogram_quantile``:
    evenly spread within its bucket, and no more than the last finite bound."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    wanted, lower, below = counts[math.inf] * share / 100, 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted and bound < math.inf:
            return lower + (bound - lower) * (wanted - below) / (count - below or 1.0)
        if bound < math.inf:
            lower, below = bound, count
    return lower


def rows(idle: Idle) -> str:
    """The figures as rows of the table."""
    quiet, beside = (1000 * seconds for seconds in (idle.quiet, idle.beside_failures))
    return (
        f"| p99 from an edit of one of {idle.jobs} idle jobs to its verdict in status; while "
        f"another one fails {idle.failures} times in {SECONDS} s | ≤ 1.5 × | {quiet:.0f} ms; "
        f"{beside:.0f} ms = {idle.ratio:.1f} × |\n"
        f"| p99 of the operator's passes meanwhile; with those over the one that fails | ≤ 50 ms | "
        f"{1000 * idle.quiet_passes:.0f} ms; {1000 * idle.passes:.0f} ms |\n"
    )
