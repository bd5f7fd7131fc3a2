"""Everything on /metrics.

``finetune_job_*`` (job_series.py) are computed from the live FineTuneJobs at scrape time;
``finetune_operator_*`` tell about this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .job_series import JOB_SERIES, phase_of
from .observed import StoredJob

RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True)
class OperatorMetrics:
    """Counters and histograms of this process."""

    registry: CollectorRegistry
    reconcile_seconds: Histogram
    reconcile_errors: Counter
    api_requests: Counter
    resync_timestamp: Gauge

    def count_request(self, verb: str, kind: str, code: int) -> None:
        """An answer of the API server; code 0: there was none."""
        self.api_requests.labels(verb, kind, str(code)).inc()


def operator_metrics(
    jobs: Callable[[], Iterable[StoredJob]],
    gauges: dict[str, tuple[str, Callable[[], float]]],
    limit: int,
) -> OperatorMetrics:
    """A registry with everything; ``gauges`` are read at scrape time: name → help, function."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(JobCollector(jobs, limit))
    for name, (text, read) in gauges.items():
        Gauge(name, text, registry=registry).set_function(read)
    return OperatorMetrics(
        registry,
        reconcile_seconds=Histogram(
            "finetune_operator_reconcile_seconds",
            "Duration of a pass over a FineTuneJob.",
            buckets=RECONCILE_BUCKETS,
            registry=registry,
        ),
        reconcile_errors=Counter(
            "finetune_operator_reconcile_errors",
            "Passes that failed and are tried again, by kind of error.",
            ["error"],
            registry=registry,
        ),
        api_requests=Counter(
            "finetune_operator_api_requests",
            "Answers of the API server; code 0: none came.",
            ["verb", "kind", "code"],
            registry=registry,
        ),
        resync_timestamp=Gauge(
            "finetune_operator_resync_last_success_timestamp_seconds",
            "When the cluster was last read as a whole.",
            registry=registry,
        ),
    )


class JobCollector(Collector):
    """The ``finetune_job_*`` series of the live FineTuneJobs, capped."""

    def __init__(
        self,
        jobs: Callable[[], Iterable[StoredJob]],
        limit: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._limit = limit
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        jobs = list(self._jobs())
        yield self._by_phase(jobs)
        shown = sorted(jobs, key=_activity, reverse=True)[: self._limit]
        hidden = GaugeMetricFamily(
            "finetune_operator_jobs_without_series",
            "FineTuneJobs beyond the limit of series for single jobs.",
        )
        hidden.add_metric((), len(jobs) - len(shown))
        yield hidden
        now, families = self._clock(), [series.family() for series in JOB_SERIES]
        for job in shown:
            for series, family in zip(JOB_SERIES, families, strict=True):
                for labels, value in series.read(job, now):
                    family.add_metric((*job.key, *labels), value)
        yield from families

    def _by_phase(self, jobs: list[StoredJob]) -> Metric:
        family = GaugeMetricFamily(
            "finetune_operator_jobs",
            "FineTuneJobs by namespace and phase.",
            labels=("namespace", "phase"),
        )
        counts: dict[tuple[str, str], int] = {}
        for job in jobs:
            place = job.key.namespace, phase_of(job)
            counts[place] = counts.get(place, 0) + 1
        for place, count in counts.items():
            family.add_metric(place, count)
        return family


def _activity(job: StoredJob) -> tuple[bool, int]:
    """Unfinished jobs first, then the most recently changed."""
    return not job.finished, job.version
