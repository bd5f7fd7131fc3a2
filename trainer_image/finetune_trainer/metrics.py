"""Prometheus metrics of the trainer, declared once in a table.

Rules: base units, counters end in ``_total``, points in time in ``_timestamp_seconds``; a label
never carries a step, a sample or a value. Known series of counters start at 0, so that ``rate``
sees the first increment; a gauge is not there before it is set, so that nobody sees a loss of 0.
Job and pod labels come from the scraper.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

PREFIX = "finetune_train_"

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Metric(NamedTuple):
    name: str
    kind: type[Gauge | Counter | Histogram]
    help: str
    label: str | None = None
    values: tuple[str, ...] = ()
    """Values of the label that are known from the start."""
    every_rank: bool = False
    """Exported by each rank; else by rank 0 alone, which speaks for the job."""


METRICS = (
    Metric("loss", Gauge, "Loss per supervised token of the last step"),
    Metric("eval_loss", Gauge, "Loss per supervised token on held-out rows", "dataset"),
    Metric("eval_perplexity", Gauge, "exp(eval_loss)", "dataset"),
    Metric("eval_token_accuracy", Gauge, "Share of held-out tokens found likeliest", "dataset"),
    Metric("baseline_eval_loss", Gauge, "eval_loss of the untouched model", "dataset"),
    Metric("eval_score", Gauge, "Score of the answers to held-out prompts", "metric"),
    Metric("baseline_eval_score", Gauge, "eval_score of the untouched model", "metric"),
    Metric(
        "paired_difference", Gauge, "Log-likelihood with the first term less the second", "list"
    ),
    Metric("baseline_paired_difference", Gauge, "The same of the untouched model", "list"),
    Metric("generalization_gap", Gauge, "eval_loss less the loss on training rows, both alike"),
    Metric("best_eval_loss", Gauge, "Lowest eval_loss so far"),
    Metric("best_step", Gauge, "Step of the lowest eval_loss"),
    Metric("learning_rate", Gauge, "Learning rate of the last step"),
    Metric("grad_norm", Gauge, "Norm of the whole gradient before clipping"),
    Metric("loss_scale", Gauge, "Loss scale of FP16; 1 in other precisions"),
    Metric("epoch", Gauge, "Passes over the data so far"),
    Metric("step", Gauge, "Optimizer steps done"),
    Metric("steps_planned", Gauge, "Optimizer steps of the whole job"),
    Metric("eta_seconds", Gauge, "Expected time until the last step"),
    Metric("tokens_per_second", Gauge, "Input tokens of all ranks per second, without padding"),
    Metric(
        "tokens",
        Counter,
        "Tokens trained on by all ranks",
        "kind",
        ("input", "supervised"),
    ),
    Metric("samples", Counter, "Packed rows trained on by all ranks"),
    Metric("steps", Counter, "Optimizer steps of this attempt"),
    Metric(
        "steps_skipped",
        Counter,
        "Steps whose update was not applied",
        "reason",
        ("nonfinite", "loss_spike", "passed_over", "loss_scale", "no_tokens"),
    ),
    Metric("loss_spikes", Counter, "Losses far above those before, also of steps that counted"),
    Metric("last_step_timestamp_seconds", Gauge, "When the last step ended"),
    Metric("start_seconds", Gauge, "Time from the container's start to the end of the first step"),
    Metric("eval_seconds", Histogram, "Duration of an evaluation"),
    Metric("answers_seconds", Histogram, "Duration of answering and scoring held-out prompts"),
    Metric("checkpoint_bytes", Gauge, "Size of the last checkpoint over all ranks"),
    Metric("checkpoint_last_success_timestamp_seconds", Gauge, "When it was published"),
    Metric("step_seconds", Histogram, "Duration of an optimizer step", every_rank=True),
    Metric(
        "checkpoint_seconds",
        Histogram,
        "From the begin of a checkpoint until it was published",
        every_rank=True,
    ),
    Metric(
        "checkpoint_stall_seconds",
        Histogram,
        "How long training stood still for a checkpoint",
        every_rank=True,
    ),
    Metric(
        "heartbeat_timestamp_seconds",
        Gauge,
        "When the training thread was last seen, by what it was doing",
        "phase",
        every_rank=True,
    ),
    Metric(
        "gpu_memory_peak_bytes",
        Gauge,
        "Highest use of GPU memory so far",
        "kind",
        every_rank=True,
    ),
)


class Metrics:
    """The metrics of one rank; ``metrics["loss"]`` is the client object of that name."""

    def __init__(self, *, rank: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._by_name: dict[str, Any] = {}
        self._unset: set[str] = set()
        for metric in METRICS:
            if not (metric.every_rank or rank == 0):
                continue
            extra = {"buckets": _SECONDS} if metric.kind is Histogram else {}
            labels = [metric.label] if metric.label else []
            kind: Any = metric.kind
            unset = metric.kind is Gauge and not labels  # with labels it shows nothing by itself
            registry = None if unset else self.registry
            created = kind(PREFIX + metric.name, metric.help, labels, registry=registry, **extra)
            if unset:
                self._unset.add(metric.name)
            for value in metric.values:
                created.labels(value)
            self._by_name[metric.name] = created

    def __getitem__(self, name: str) -> Any:
        """To set it: from now on it is exported."""
        if name in self._unset:
            self._unset.discard(name)
            self.registry.register(self._by_name[name])
        return self._by_name[name]

    def beat(self, phase: str, at: float) -> None:
        """Move the heartbeat to ``phase``; that of the phase before must not grow old."""
        gauge = self["heartbeat_timestamp_seconds"]
        gauge.clear()
        gauge.labels(phase).set(at)
