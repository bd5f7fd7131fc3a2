"""What each FineTuneJob says on /metrics: one table of series, read from its status.

They end with the object and outlive the pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge

from .api.types import Cause, Phase
from .observed import StoredJob

LABELS = ("namespace", "finetunejob")
ANSWER_SCORES = ("bleu", "chrF", "rougeL", "exactMatch", "regexMatch", "jsonValid")
RESTART_CAUSES = ("program", "infrastructure", "memory", "rollBacks")

Sample = tuple[tuple[str, ...], float]
"""Values of the series' own labels, and the number."""
Reader = Callable[[StoredJob, float], Iterator[Sample]]
"""From a job and the present time (s since 1970)."""


class JobSeries(NamedTuple):
    """A family of series of each job."""

    kind: type[Gauge] | type[Counter]
    name: str
    help: str
    labels: tuple[str, ...]
    """Beside ``LABELS``."""
    read: Reader

    def family(self) -> Gauge | Counter:
        return self.kind(self.name, self.help, labels=(*LABELS, *self.labels))


def phase_of(job: StoredJob) -> str:
    return job.phase or Phase.PENDING.value


def _info(job: StoredJob, _: float) -> Iterator[Sample]:
    method = next(iter(_section(job.spec, "method")), "")
    model = str(_section(job.spec, "model").get("uri", ""))[:200]
    yield (phase_of(job), str(method), model), 1


def _phase(job: StoredJob, _: float) -> Iterator[Sample]:
    yield (phase_of(job),), 1


def _restarts(job: StoredJob, _: float) -> Iterator[Sample]:
    for cause in RESTART_CAUSES:
        yield (cause,), _number(job.status, ("restarts", cause)) or 0


def _goodput(job: StoredJob, now: float) -> Iterator[Sample]:
    """Seconds by cause; the time since the last entry belongs to the present cause."""
    account = _section(job.status, "goodput")
    try:
        since = max(0.0, now - datetime.fromisoformat(account["until"]).timestamp())
    except (KeyError, TypeError, ValueError):
        return
    for cause in Cause:
        count = _number(account, ("seconds", cause.value)) or 0.0
        yield (cause.value,), count + (since if account.get("current") == cause.value else 0.0)


def _answer_scores(*side: str) -> Reader:
    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        for name in ANSWER_SCORES:
            if (value := _number(job.status, ("metrics", *side, name))) is not None:
                yield (name,), value

    return read


def _losses_of_datasets(*side: str) -> Reader:
    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        for each in _entries(_section(job.status, "metrics"), "datasets"):
            if (value := _number(each, (*side, "loss"))) is not None:
                yield (f"{str(each.get('role')).lower()}/{each.get('name')}",), value

    return read


def _paired_differences(*side: str) -> Reader:
    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        for each in _entries(_section(job.status, "metrics"), "pairedPrompts"):
            if (value := _number(each, (*side, "difference"))) is not None:
                yield (str(each.get("name")),), value

    return read


def _said_by_scorers(side: str) -> Reader:
    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        for scorer in _entries(job.status, "scorers"):
            for name in _section(scorer, side):
                if (value := _number(scorer, (side, name))) is not None:
                    yield (str(scorer.get("name")), name), value

    return read


def _count_at(*path: str) -> Reader:
    """A number of the status; 0 where it is not there."""

    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        yield (), _number(job.status, path) or 0

    return read


def _number_at(*path: str, scale: float = 1.0) -> Reader:
    """A number of the status, times ``scale``; nothing where it is not there."""

    def read(job: StoredJob, _: float) -> Iterator[Sample]:
        if (value := _number(job.status, path)) is not None:
            yield (), value * scale

    return read


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


JOB_SERIES = (
    JobSeries(
        Gauge,
        "finetune_job_info",
        "What a FineTuneJob is; always 1.",
        ("phase", "method", "model"),
        _info,
    ),
    JobSeries(
        Gauge, "finetune_job_phase", "1 for the phase that a FineTuneJob is in.", ("phase",), _phase
    ),
    JobSeries(
        Counter,
        "finetune_job_restarts",
        "Restarts of a FineTuneJob after failures, by the budget that paid.",
        ("cause",),
        _restarts,
    ),
    JobSeries(
        Counter,
        "finetune_job_resizes",
        "Changes of the number of workers of a FineTuneJob.",
        (),
        _count_at("restarts", "resizes"),
    ),
    JobSeries(
        Counter,
        "finetune_job_steps_redone",
        "Optimizer steps that restarts lost, and that were trained again.",
        (),
        _count_at("restarts", "stepsRedone"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_goodput_seconds",
        "What the time of a FineTuneJob was spent on, since the operator took it up.",
        ("cause",),
        _goodput,
    ),
    JobSeries(
        Counter,
        "finetune_job_gpu_seconds",
        "Seconds in which training pods of a FineTuneJob held GPUs, times their GPUs.",
        (),
        _count_at("goodput", "gpuSeconds"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_eval_score",
        "Newest score of the answers to held-out prompts, by metric.",
        ("metric",),
        _answer_scores(),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_eval_score",
        "The same of the untouched model.",
        ("metric",),
        _answer_scores("baseline"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_dataset_loss",
        "Newest loss on the rows of one source that is not trained on, as role/name.",
        ("dataset",),
        _losses_of_datasets(),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_dataset_loss",
        "The same of the untouched model.",
        ("dataset",),
        _losses_of_datasets("baseline"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_paired_difference",
        "Log-likelihood of answers with the first term less that with the second, in nats.",
        ("list",),
        _paired_differences(),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_paired_difference",
        "The same of the untouched model.",
        ("list",),
        _paired_differences("baseline"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_scorer_score",
        "What a scorer of the user said of the tuned model.",
        ("scorer", "metric"),
        _said_by_scorers("tuned"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_scorer_score",
        "What it said of the untouched model.",
        ("scorer", "metric"),
        _said_by_scorers("base"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_progress_ratio",
        "Optimizer steps done as a share of all, 0 to 1.",
        (),
        _number_at("progress", "percent", scale=0.01),
    ),
    JobSeries(
        Gauge,
        "finetune_job_loss",
        "Newest training loss, in nats.",
        (),
        _number_at("metrics", "loss"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_eval_loss",
        "Newest loss on the held-out rows.",
        (),
        _number_at("metrics", "evalLoss"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_eval_perplexity",
        "Newest perplexity on the held-out rows.",
        (),
        _number_at("metrics", "perplexity"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_eval_token_accuracy",
        "Newest share of held-out tokens that the model found likeliest.",
        (),
        _number_at("metrics", "tokenAccuracy"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_generalization_gap",
        "Newest loss on held-out rows less that on training rows.",
        (),
        _number_at("metrics", "generalizationGap"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_eval_loss",
        "Loss of the untouched model on the held-out rows.",
        (),
        _number_at("metrics", "baseline", "evalLoss"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_general_loss",
        "Newest loss on the rows of spec.data.general.",
        (),
        _number_at("metrics", "generalLoss"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_baseline_general_loss",
        "Loss of the untouched model on the rows of spec.data.general.",
        (),
        _number_at("metrics", "baseline", "generalLoss"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_human_win_rate",
        "Share of people's ratings that the tuned model wins; ties count as half.",
        (),
        _number_at("humanEvaluation", "winRate"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_human_ratings",
        "Ratings by people that count.",
        (),
        _number_at("humanEvaluation", "ratings"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_human_agreement",
        "Krippendorff's alpha of the raters.",
        (),
        _number_at("humanEvaluation", "agreement"),
    ),
    JobSeries(
        Gauge,
        "finetune_job_workers",
        "Training pods of the present gang, or of the next one.",
        (),
        _number_at("resolved", "workers"),
    ),
)
