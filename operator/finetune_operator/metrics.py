"""Everything on /metrics, declared in one table each.

``finetune_job_*`` are computed from the live FineTuneJobs at scrape time, so they end with the
object and outlive the pods; ``finetune_operator_*`` tell about this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .api.types import Cause, Phase
from .observed import StoredJob

LABELS = ("namespace", "finetunejob")
RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class JobMetric(NamedTuple):
    """A number of each job, taken from its status."""

    name: str
    help: str
    path: tuple[str, ...]
    scale: float = 1.0


JOB_METRICS = (
    JobMetric(
        "finetune_job_progress_ratio",
        "Optimizer steps done as a share of all, 0 to 1.",
        ("progress", "percent"),
        0.01,
    ),
    JobMetric("finetune_job_loss", "Newest training loss, in nats.", ("metrics", "loss")),
    JobMetric(
        "finetune_job_eval_loss", "Newest loss on the held-out rows.", ("metrics", "evalLoss")
    ),
    JobMetric(
        "finetune_job_eval_perplexity",
        "Newest perplexity on the held-out rows.",
        ("metrics", "perplexity"),
    ),
    JobMetric(
        "finetune_job_eval_token_accuracy",
        "Newest share of held-out tokens that the model found likeliest.",
        ("metrics", "tokenAccuracy"),
    ),
    JobMetric(
        "finetune_job_generalization_gap",
        "Newest loss on held-out rows less that on training rows.",
        ("metrics", "generalizationGap"),
    ),
    JobMetric(
        "finetune_job_baseline_eval_loss",
        "Loss of the untouched model on the held-out rows.",
        ("metrics", "baseline", "evalLoss"),
    ),
    JobMetric(
        "finetune_job_general_loss",
        "Newest loss on the rows of spec.data.general.",
        ("metrics", "generalLoss"),
    ),
    JobMetric(
        "finetune_job_baseline_general_loss",
        "Loss of the untouched model on the rows of spec.data.general.",
        ("metrics", "baseline", "generalLoss"),
    ),
    JobMetric(
        "finetune_job_human_win_rate",
        "Share of people's ratings that the tuned model wins; ties count as half.",
        ("humanEvaluation", "winRate"),
    ),
    JobMetric(
        "finetune_job_human_ratings",
        "Ratings by people that count.",
        ("humanEvaluation", "ratings"),
    ),
    JobMetric(
        "finetune_job_human_agreement",
        "Krippendorff's alpha of the raters.",
        ("humanEvaluation", "agreement"),
    ),
    JobMetric(
        "finetune_job_workers",
        "Training pods of the present gang, or of the next one.",
        ("resolved", "workers"),
    ),
)

ANSWER_SCORES = ("bleu", "chrF", "rougeL", "exactMatch", "regexMatch", "jsonValid")
RESTART_CAUSES = ("program", "infrastructure", "memory", "rollBacks")


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
        info = GaugeMetricFamily(
            "finetune_job_info",
            "What a FineTuneJob is; always 1.",
            labels=(*LABELS, "phase", "method", "model"),
        )
        phase = GaugeMetricFamily(
            "finetune_job_phase",
            "1 for the phase that a FineTuneJob is in.",
            labels=(*LABELS, "phase"),
        )
        restarts = CounterMetricFamily(
            "finetune_job_restarts",
            "Restarts of a FineTuneJob after failures, by the budget that paid.",
            labels=(*LABELS, "cause"),
        )
        resizes = CounterMetricFamily(
            "finetune_job_resizes",
            "Changes of the number of workers of a FineTuneJob.",
            labels=LABELS,
        )
        redone = CounterMetricFamily(
            "finetune_job_steps_redone",
            "Optimizer steps that restarts lost, and that were trained again.",
            labels=LABELS,
        )
        goodput = GaugeMetricFamily(
            "finetune_job_goodput_seconds",
            "What the time of a FineTuneJob was spent on, since the operator took it up.",
            labels=(*LABELS, "cause"),
        )
        gpu_seconds = CounterMetricFamily(
            "finetune_job_gpu_seconds",
            "Seconds in which training pods of a FineTuneJob held GPUs, times their GPUs.",
            labels=LABELS,
        )
        scores = GaugeMetricFamily(
            "finetune_job_eval_score",
            "Newest score of the answers to held-out prompts, by metric.",
            labels=(*LABELS, "metric"),
        )
        base_scores = GaugeMetricFamily(
            "finetune_job_baseline_eval_score",
            "The same of the untouched model.",
            labels=(*LABELS, "metric"),
        )
        dataset_losses = GaugeMetricFamily(
            "finetune_job_dataset_loss",
            "Newest loss on the rows of one source that is not trained on, as role/name.",
            labels=(*LABELS, "dataset"),
        )
        base_dataset_losses = GaugeMetricFamily(
            "finetune_job_baseline_dataset_loss",
            "The same of the untouched model.",
            labels=(*LABELS, "dataset"),
        )
        said = GaugeMetricFamily(
            "finetune_job_scorer_score",
            "What a scorer of the user said of the tuned model.",
            labels=(*LABELS, "scorer", "metric"),
        )
        base_said = GaugeMetricFamily(
            "finetune_job_baseline_scorer_score",
            "What it said of the untouched model.",
            labels=(*LABELS, "scorer", "metric"),
        )
        paired = GaugeMetricFamily(
            "finetune_job_paired_difference",
            "Log-likelihood of answers with the first term less that with the second, in nats.",
            labels=(*LABELS, "list"),
        )
        base_paired = GaugeMetricFamily(
            "finetune_job_baseline_paired_difference",
            "The same of the untouched model.",
            labels=(*LABELS, "list"),
        )
        families = [GaugeMetricFamily(m.name, m.help, labels=LABELS) for m in JOB_METRICS]
        for job in shown:
            now, status = job.phase or Phase.PENDING.value, job.status
            method = next(iter(_section(job.spec, "method")), "")
            model = str(_section(job.spec, "model").get("uri", ""))[:200]
            info.add_metric((*job.key, now, str(method), model), 1)
            phase.add_metric((*job.key, now), 1)
            for cause in RESTART_CAUSES:
                count = _number(status, ("restarts", cause)) or 0
                restarts.add_metric((*job.key, cause), count)
            resizes.add_metric(job.key, _number(status, ("restarts", "resizes")) or 0)
            redone.add_metric(job.key, _number(status, ("restarts", "stepsRedone")) or 0)
            for cause, count in _time_spent(status, self._clock()):
                goodput.add_metric((*job.key, cause), count)
            gpu_seconds.add_metric(job.key, _number(status, ("goodput", "gpuSeconds")) or 0)
            for name in ANSWER_SCORES:
                for series, path in ((scores, ()), (base_scores, ("baseline",))):
                    if (value := _number(status, ("metrics", *path, name))) is not None:
                        series.add_metric((*job.key, name), value)
            for each in _entries(_section(status, "metrics"), "datasets"):
                name = f"{str(each.get('role')).lower()}/{each.get('name')}"
                for series, numbers in (
                    (dataset_losses, each),
                    (base_dataset_losses, _section(each, "baseline")),
                ):
                    if (value := _number(numbers, ("loss",))) is not None:
                        series.add_metric((*job.key, name), value)
            for each in _entries(_section(status, "metrics"), "pairedPrompts"):
                for series, numbers in (
                    (paired, each),
                    (base_paired, _section(each, "baseline")),
                ):
                    if (value := _number(numbers, ("difference",))) is not None:
                        series.add_metric((*job.key, str(each.get("name"))), value)
            for scorer in _entries(status, "scorers"):
                for series, side in ((said, "tuned"), (base_said, "base")):
                    for name in _section(scorer, side):
                        value = _number(scorer, (side, name))
                        if value is not None:
                            series.add_metric((*job.key, str(scorer.get("name")), name), value)
            for family, metric in zip(families, JOB_METRICS, strict=True):
                value = _number(status, metric.path)
                if value is not None:
                    family.add_metric(job.key, value * metric.scale)
        yield info
        yield phase
        yield restarts
        yield resizes
        yield redone
        yield goodput
        yield gpu_seconds
        yield scores
        yield base_scores
        yield dataset_losses
        yield base_dataset_losses
        yield paired
        yield base_paired
        yield said
        yield base_said
        yield from families

    def _by_phase(self, jobs: list[StoredJob]) -> Metric:
        family = GaugeMetricFamily(
            "finetune_operator_jobs",
            "FineTuneJobs by namespace and phase.",
            labels=("namespace", "phase"),
        )
        counts: dict[tuple[str, str], int] = {}
        for job in jobs:
            place = job.key.namespace, job.phase or Phase.PENDING.value
            counts[place] = counts.get(place, 0) + 1
        for place, count in counts.items():
            family.add_metric(place, count)
        return family


def _activity(job: StoredJob) -> tuple[bool, int]:
    """Unfinished jobs first, then the most recently changed."""
    return not job.finished, job.version


def _time_spent(status: Any, now: float) -> Iterator[tuple[str, float]]:
    """Cause and seconds; the time since the last entry belongs to the present cause."""
    account = _section(status, "goodput")
    try:
        since = max(0.0, now - datetime.fromisoformat(account["until"]).timestamp())
    except (KeyError, TypeError, ValueError):
        return
    for cause in Cause:
        count = _number(account, ("seconds", cause.value)) or 0.0
        yield cause.value, count + (since if account.get("current") == cause.value else 0.0)


def _entries(place: Any, name: str) -> list[Any]:
    found = place.get(name) if hasattr(place, "get") else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _section(place: Any, name: str) -> Any:
    part = place.get(name) if hasattr(place, "get") else None
    return part if isinstance(part, dict) else {}


def _number(status: Any, path: tuple[str, ...]) -> float | None:
    value = status
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
