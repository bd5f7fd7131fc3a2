"""Reports of the trainer → fields of the status: bounded, rounded, without floats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from ..api.types import (
    BestCheckpoint,
    Checkpoints,
    DatasetBaseline,
    DatasetScores,
    DataStatus,
    LatestCheckpoint,
    Metrics,
    ModelStatus,
    PairedNumbers,
    PairedScores,
    Progress,
    Scores,
    StageName,
    decimal_string,
)
from ..fit_choice import switch_of
from ..observed import ChildPod
from ..preflight import chosen, predicted
from ..reports import (
    AccountReport,
    BestReport,
    CheckpointReport,
    DatasetReport,
    LastWords,
    MetricsReport,
    PairedNumbersReport,
    PairedReport,
    ProgressReport,
    ResumedReport,
    ScoresReport,
    read_last_words,
)
from .facts import Facts
from .history import resumption_changes
from .lock import lock_of


def last_words(facts: Facts) -> LastWords | None:
    """What the present attempt said at its end: rank 0's pod speaks for all."""
    return next(_all_last_words(facts), None)


def _all_last_words(facts: Facts) -> Iterator[LastWords]:
    pods: Iterable[ChildPod] = (*facts.observed.last_words, *facts.stage.pods)
    for pod in sorted(pods, key=lambda pod: pod.index):
        words = read_last_words(pod.terminated.message) if pod.terminated else None
        if words and words.stage == facts.stage.name.value:
            yield words


def reported_start(facts: Facts) -> ResumedReport | None:
    """Where the present attempt of the training began, as it said itself."""
    told = (facts.progress, *_all_last_words(facts))
    starts = (r.resumed_from for r in told if r and r.attempt == facts.stage.attempt)
    return next((start for start in starts if start is not None), None)


def reported_account(facts: Facts) -> AccountReport | None:
    """Where the time of the present attempt went, as it said last."""
    told = (facts.progress, *_all_last_words(facts))
    accounts = (r.account for r in told if r and r.account and r.attempt == facts.stage.attempt)
    return max(accounts, key=lambda account: account.at, default=None)


def progress_changes(facts: Facts) -> dict[str, Any]:
    """Status fields from rank 0's newest answer; empty where it says nothing new."""
    report = facts.progress
    if report is None or report.attempt != facts.stage.attempt:
        return {}
    fresh = _progress(report)
    changes: dict[str, Any] = {
        "metrics": read_metrics(report.metrics, facts.status.metrics),
        "checkpoints": read_checkpoints(report.checkpoints, report.best, _followed(facts)),
        **resumption_changes(facts, reported_start(facts)),
    }
    known = facts.status.progress
    if known is None or _essence(known) != _essence(fresh):
        changes["progress"] = fresh
    return changes


def trained_changes(facts: Facts, words: LastWords | None) -> dict[str, Any]:
    """Final numbers of the training, from the words of train."""
    if words is None:
        return {}
    changes = {**final_numbers(facts, words), **resumption_changes(facts, reported_start(facts))}
    if facts.spec.evaluation.generation and facts.status.logs:
        path = f"{facts.known_plan.workspace}/attempts/{facts.stage.attempt}/answers.html"
        changes["logs"] = facts.status.logs.model_copy(update={"answers_path": path})
    if words.step is not None:
        changes["progress"] = _finished(words.step, words.steps, words, facts.now)
    return changes


def final_numbers(facts: Facts, words: Any) -> dict[str, Any]:
    return {
        "metrics": read_metrics(words.metrics, facts.status.metrics),
        "checkpoints": read_checkpoints(words.checkpoints, words.best, _followed(facts)),
    }


def prepared_changes(facts: Facts, words: LastWords | None) -> dict[str, Any]:
    """Model, data and step count, from the words of prepare, and what follows from them."""
    changes: dict[str, Any] = {}
    if words and words.model:
        changes["model"] = ModelStatus(**words.model.model_dump(exclude_none=True))
    if words and words.data:
        changes["data"] = DataStatus(
            **words.data.model_dump(exclude_none=True),
            report_path=f"{facts.known_plan.workspace}/data/report.html",
            rejects_path=f"{facts.known_plan.workspace}/data/rejects.jsonl",
        )
    plan = facts.known_plan
    model, data = changes.get("model"), changes.get("data")
    resolved = facts.status.resolved or plan.resolved
    news: dict[str, Any] = {}
    if words and words.steps is not None:
        news["steps"] = words.steps
    fit, choice = plan.fit, chosen(plan.spec, plan.default_fit, model, data)
    if choice is not None:
        fit = choice.fit
        news |= {
            "planned": choice.planned,
            "micro_batch_size": fit.micro,
            "accumulation": fit.accumulation,
            "zero_stage": fit.zero_stage,
            "activation_checkpointing": switch_of(fit),
            "reasons": {**(resolved.reasons or {}), **(choice.planned.reasons or {})} or None,
        }
    news["memory"] = predicted(plan.spec, fit, model, data)
    changes["lock"] = lock_of(facts, words, fit)
    changes["resolved"] = resolved.model_copy(update=news)
    return changes


def read_metrics(report: MetricsReport, known: Metrics | None) -> Metrics | None:
    """The newest of each number; one that is not reported now keeps its value."""
    base = known or Metrics()
    metrics = Metrics(
        **_numbers(base, report),
        baseline=_scores(report.baseline) or base.baseline,
        datasets=tuple(map(_dataset, report.datasets)) or base.datasets,
        paired_prompts=tuple(map(_paired, report.paired_prompts)) or base.paired_prompts,
    )
    return metrics if metrics != Metrics() else None


def _followed(facts: Facts) -> Checkpoints | None:
    """What is known of checkpoints, without those that the present attempt left behind: it went on
    from an earlier step, and no later attempt will find them."""
    known = facts.status.checkpoints
    start = reported_start(facts) if facts.stage.name is StageName.TRAIN else None
    if known is None or start is None:
        return known
    latest, best = known.latest, known.best
    return Checkpoints(
        latest=latest if latest and (latest.step or 0) <= start.step else None,
        best=best if best and (best.step or 0) <= start.step else None,
    )


def read_checkpoints(
    reports: tuple[CheckpointReport, ...], best: BestReport | None, known: Checkpoints | None
) -> Checkpoints | None:
    newest = max(reports, key=lambda report: report.step, default=None)
    latest = known.latest if known else None
    if newest:
        latest = LatestCheckpoint(step=newest.step, verified=newest.verified, bytes=newest.bytes)
    top = known.best if known else None
    if best:
        top = BestCheckpoint(step=best.step, eval_loss=_decimal(best.eval_loss))
    return Checkpoints(latest=latest, best=top) if latest or top else None


def _progress(report: ProgressReport) -> Progress:
    return Progress(
        stage=StageName.TRAIN,
        phase=report.phase or None,
        step=report.step,
        steps=report.steps,
        epoch=_decimal(report.epoch, digits=4),
        eta_seconds=_seconds(report.eta_seconds),
        tokens_per_second=_decimal(report.tokens_per_second, digits=4),
        skipped=report.skipped or None,
        last_bad_step=report.last_bad_step,
        loss_spikes=report.loss_spikes,
        peak_memory_bytes=report.peak_memory_bytes,
        updated_at=datetime.fromtimestamp(report.updated_at, UTC),
    )


def _finished(step: int, steps: int | None, words: LastWords, now: datetime) -> Progress:
    return Progress(
        stage=StageName.TRAIN,
        phase="done",
        step=step,
        steps=steps,
        eta_seconds=0,
        tokens_per_second=_decimal(words.tokens_per_second, digits=4),
        skipped=words.skipped or None,
        last_bad_step=words.last_bad_step,
        loss_spikes=words.loss_spikes,
        peak_memory_bytes=words.peak_memory_bytes,
        updated_at=now,
    )


def _essence(progress: Progress) -> tuple[Any, ...]:
    """What makes a progress new: not the clock alone."""
    return progress.stage, progress.phase, progress.step, progress.steps


def _seconds(value: float | None) -> int | None:
    return None if value is None or not 0 <= value < 1e9 else math.ceil(value)


def _scores(report: ScoresReport | None) -> Scores | None:
    scores = Scores() if report is None else Scores(**_numbers(Scores(), report))
    return scores if scores != Scores() else None


def _numbers(known: Scores, report: ScoresReport) -> dict[str, str | None]:
    """All single numbers of ``known``, each replaced by what is reported."""
    told = report.model_fields_set
    return {
        name: _decimal(getattr(report, name)) if name in told else getattr(known, name)
        for name in type(known).model_fields
        if name not in ("baseline", "datasets", "paired_prompts")
    }


def _paired(report: PairedReport) -> PairedScores:
    base = report.baseline
    return PairedScores(
        name=report.name,
        pairs=report.pairs,
        baseline=PairedNumbers(**_of_pair(base)) if base else None,
        **_of_pair(report),
    )


def _of_pair(report: PairedNumbersReport) -> dict[str, Any]:
    names = PairedNumbers.model_fields
    return {name: _decimal(getattr(report, name)) for name in names}


def _dataset(report: DatasetReport) -> DatasetScores:
    base = None
    if (told := report.baseline) is not None:
        base = DatasetBaseline(loss=_decimal(told.loss), perplexity=_decimal(told.perplexity))
    return DatasetScores(
        role=report.role,
        name=report.name,
        tokens=report.tokens,
        loss=_decimal(report.loss),
        perplexity=_decimal(report.perplexity),
        baseline=base,
    )


def _decimal(value: float | None, digits: int = 6) -> str | None:
    return None if value is None else decimal_string(value, digits)
