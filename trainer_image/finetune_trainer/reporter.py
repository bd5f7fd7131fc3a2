"""Everything a rank tells the outside about its progress, in one place.

``/progress`` and ``metrics.jsonl`` are rank 0's; metrics and heartbeats are every rank's. Nothing
here may end a healthy run: what cannot be written is logged once and left out.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import IO, Any

from finetune_trainer.account import Account
from finetune_trainer.heartbeat import MEETING_STEPS, Heartbeat, Phase
from finetune_trainer.lineage import Parent
from finetune_trainer.metrics import Metrics
from finetune_trainer.progress import Progress, finite

LOG_SECONDS = 10.0
"""At most one line about a step in this time."""
DAMAGED_TOLD, DAMAGE_TOLD = 3, 200
"""Damaged checkpoints that are told of, and characters about each: last words are short."""
DATASET = "eval"
"""Label of the held-out rows; a source of theirs has ``eval/<name>``."""
GENERAL = "general"
"""Label of the general rows; a source of theirs has ``general/<name>``."""

log = logging.getLogger(__name__)


class Reporter:
    """``folder`` is the attempt's; the files in it appear when there is something to say."""

    def __init__(
        self,
        *,
        rank: int,
        folder: Path,
        metrics: Metrics,
        progress: Progress,
        heartbeat: Heartbeat,
        account: Account | None = None,
        started_at: float | None = None,
    ) -> None:
        """``started_at``: when the container started, in Unix seconds."""
        self._first = rank == 0
        self._started_at = started_at
        self._metrics = metrics
        self._progress = progress
        self.heartbeat = heartbeat
        self.account = account or Account(started_at)
        self.lines = folder / "metrics.jsonl"
        self._file: IO[str] | None = None
        self._per_epoch = 1
        self._steps = 0
        self._logged_at = -LOG_SECONDS
        self.attempt_tokens = 0
        """Input tokens of this attempt, not counting what it resumed."""
        self.step_seconds = 0.0
        """Time of all its steps."""
        self.peak_memory: int | None = None
        """Bytes that the rank held of its GPU at most; None without one."""

    def beat(self, phase: Phase, step: int) -> None:
        self.heartbeat.beat(phase, step)
        self._metrics.beat(phase, self.heartbeat.at)

    def phase(self, phase: Phase, step: int) -> None:
        self.beat(phase, step)
        self.account.turn_to(phase, step)
        if self._first:
            self._progress.update(phase=phase, step=step, account=self.account.content())

    def gpu_memory(self, allocated: int, reserved: int, whole: int) -> None:
        """Highest use so far, in bytes; ``whole``: with the context and the libraries."""
        self.peak_memory = whole
        self._progress.update(peakMemoryBytes=whole)
        self._metrics["gpu_memory_peak_bytes"].labels("allocated").set(allocated)
        self._metrics["gpu_memory_peak_bytes"].labels("reserved").set(reserved)

    def resumed(self, parent: Parent | None, done_before: int = 0) -> None:
        """This attempt goes on from that checkpoint; None: there is none, so from step 0.

        ``done_before``: steps that earlier attempts have done; the last of them are done again.
        """
        self.account.farthest = done_before
        start: dict[str, Any] = {"step": 0}
        if parent:
            damaged = [fault[:DAMAGE_TOLD] for fault in parent.damaged[:DAMAGED_TOLD]]
            start = {"attempt": parent.attempt, "step": parent.step}
            start |= {"damaged": damaged} if damaged else {}
        self._progress.update(resumedFrom=start, step=start["step"])

    def self_tested(self, result: dict[str, Any], seconds: float) -> None:
        """What came out of the self-test before the first step."""
        if self._first:
            self._line({"selfTest": {**finite(result), "seconds": round(seconds, 3)}})

    def planned(self, steps: int, state: Any, per_epoch: int, published: list[Any]) -> None:
        """``published``: the checkpoint that this attempt goes on from, if there is one."""
        self._per_epoch = per_epoch
        self._steps = steps
        if not self._first:
            return
        self._metrics["steps_planned"].set(steps)
        self._metrics["step"].set(state.step)
        self._progress.update(
            steps=steps,
            step=state.step,
            best=state.best,
            checkpoints=[p.content() for p in published],
            metrics=state.metrics,
            **state.told,
        )

    def judged(self, state: Any, skipped: str | None, *, spike: bool) -> None:
        """What became of a step: why it changed no weight, and whether its loss was a spike."""
        if not self._first:
            return
        if skipped:
            self._metrics["steps_skipped"].labels(skipped).inc()
        if spike:
            self._metrics["loss_spikes"].inc()
        if skipped or spike:
            self._progress.update(**state.told)

    def passed_over(self, state: Any) -> None:
        """A step whose rows were left out because of an earlier attempt."""
        self.phase("train", state.step)
        self.judged(state, "passed_over", spike=False)
        if self._first:
            self._metrics["step"].set(state.step)
            self._line({"step": state.step, "skipped": "passed_over"})

    def step_done(
        self,
        state: Any,
        numbers: dict[str, float | None],
        *,
        window: Any,
        skipped: str | None,
        seconds: float,
        compute_seconds: float,
        speed: float,
        eta: float,
        loss_scale: float,
    ) -> None:
        """``numbers``: loss, learningRate and gradNorm of the step; ``skipped``: why it changed no
        weight.

        ``compute_seconds`` is the part of ``seconds`` in forward, backward and optimizer.
        """
        self.attempt_tokens += window.tokens
        self.step_seconds += seconds
        self.account.turn_to("train", state.step)
        if state.step % MEETING_STEPS == 0:
            self.heartbeat.met(state.step)
        if self.heartbeat.patience is not None:
            self.heartbeat.patience.took(seconds)
        self._metrics["step_seconds"].observe(seconds)
        state.metrics = {**state.metrics, **numbers}
        if not self._first:
            return
        epoch = state.step / self._per_epoch
        gauges = {
            "loss": numbers["loss"],
            "learning_rate": numbers["learningRate"],
            "grad_norm": numbers["gradNorm"],
            "loss_scale": loss_scale,
            "epoch": epoch,
            "step": state.step,
            "eta_seconds": eta,
            "tokens_per_second": speed,
            "last_step_timestamp_seconds": time.time(),
        }
        for name, value in gauges.items():
            self._metrics[name].set(math.nan if value is None else value)
        self._count(window)
        self._note_the_first_step()
        self._progress.update(
            phase="train",
            step=state.step,
            epoch=round(epoch, 4),
            tokensPerSecond=round(speed, 1),
            etaSeconds=round(eta, 1),
            metrics=numbers,
            account=self.account.content(),
        )
        self._log_now_and_then(state.step, numbers["loss"], speed, eta)
        self._line(
            {
                "step": state.step,
                "epoch": epoch,
                **numbers,
                "skipped": skipped,
                "seconds": seconds,
                "computeSeconds": compute_seconds,
                "tokens": window.tokens,
                "supervisedTokens": window.supervised,
            }
        )

    def _count(self, window: Any) -> None:
        self._metrics["tokens"].labels("input").inc(window.tokens)
        self._metrics["tokens"].labels("supervised").inc(window.supervised)
        self._metrics["samples"].inc(len(window.rows))
        self._metrics["steps"].inc()

    def _note_the_first_step(self) -> None:
        if self._started_at is None:
            return
        waited = time.time() - self._started_at
        self._started_at = None
        self._metrics["start_seconds"].set(waited)
        log.info("first step done %.1f s after the container started", waited)

    def _log_now_and_then(self, step: int, loss: float | None, speed: float, eta: float) -> None:
        if time.monotonic() - self._logged_at < LOG_SECONDS and step != self._steps:
            return
        self._logged_at = time.monotonic()
        log.info(
            "step %d of %d: loss %.4f, %.0f tokens/s, %.0f s left",
            *(step, self._steps, math.nan if loss is None else loss, speed, eta),
        )

    def evaluated(
        self,
        state: Any,
        scored: Any,
        *,
        baseline: bool,
        restored: int | None = None,
    ) -> None:
        """``restored``: the earlier step whose weights were scored."""
        if not self._first:
            return
        result, on_train = scored.held[1], scored.on_train
        self._tell_datasets(state.metrics, scored, baseline=baseline)
        self._metrics["eval_loss"].labels(DATASET).set(result.loss)
        self._metrics["eval_perplexity"].labels(DATASET).set(result.perplexity)
        self._metrics["eval_token_accuracy"].labels(DATASET).set(result.accuracy)
        self._metrics["eval_seconds"].observe(scored.seconds)
        if on_train is not None:
            self._metrics["generalization_gap"].set(result.loss - on_train)
        if baseline:
            self._metrics["baseline_eval_loss"].labels(DATASET).set(result.loss)
        if state.best:
            self._metrics["best_eval_loss"].set(state.best["evalLoss"])
            self._metrics["best_step"].set(state.best["step"])
        self._progress.update(best=state.best, metrics=state.metrics, judgement=state.judgement)
        self._line(
            {
                "step": state.step,
                "evalLoss": result.loss,
                "perplexity": result.perplexity,
                "tokenAccuracy": result.accuracy,
                "evalTokens": result.tokens,
                "trainSampleLoss": on_train,
                "generalLoss": scored.general[1].loss if scored.general else None,
                "datasets": state.metrics.get("datasets"),
                "judgement": (state.judgement or {}).get("finding"),
                "baseline": baseline,
                "restored": restored,
                "seconds": scored.seconds,
            }
        )
        log.info(
            "step %d: eval loss %.4f, perplexity %.2f (%d tokens, %.1f s)%s",
            state.step,
            result.loss,
            result.perplexity,
            result.tokens,
            scored.seconds,
            f", general loss {scored.general[1].loss:.4f}" if scored.general else "",
        )

    def _tell_datasets(self, numbers: dict[str, Any], scored: Any, *, baseline: bool) -> None:
        """The same of the general rows, and of each source."""
        told = [(f"{d['role'].lower()}/{d['name']}", d) for d in numbers.get("datasets", ())]
        if scored.general:
            general = scored.general[1]
            told.append((GENERAL, {"loss": general.loss, "perplexity": general.perplexity}))
        for name, values in told:
            self._metrics["eval_loss"].labels(name).set(values["loss"])
            self._metrics["eval_perplexity"].labels(name).set(values["perplexity"])
            if baseline:
                self._metrics["baseline_eval_loss"].labels(name).set(values["loss"])

    def compared(self, state: Any, told: list[dict[str, Any]], *, seconds: float) -> None:
        """Paired prompts were scored."""
        if not self._first:
            return
        baseline = state.step == 0
        for each in told:
            self._metrics["paired_difference"].labels(each["name"]).set(each["difference"])
            if baseline:
                gauge = self._metrics["baseline_paired_difference"]
                gauge.labels(each["name"]).set(each["difference"])
        self._progress.update(metrics=state.metrics)
        numbers = {"pairedPrompts": told, "baseline": baseline, "seconds": seconds}
        self._line({"step": state.step, **numbers})

    def answered(
        self,
        state: Any,
        scores: Any,
        *,
        count: int,
        cut: int,
        seconds: float,
        restored: int | None = None,
    ) -> None:
        """Held-out prompts were answered; ``cut``: so many answers were not over in time."""
        if not self._first:
            return
        baseline = state.step == 0
        for name, value in scores.values.items():
            self._metrics["eval_score"].labels(name).set(value)
            if baseline:
                self._metrics["baseline_eval_score"].labels(name).set(value)
        self._metrics["answers_seconds"].observe(seconds)
        self._progress.update(metrics=state.metrics)
        self._line(
            {
                "step": state.step,
                "answers": count,
                "cut": cut,
                "scores": scores.values,
                "signatures": scores.signatures,
                "baseline": baseline,
                "restored": restored,
                "seconds": seconds,
            }
        )
        told = ", ".join(f"{name} {value:.4g}" for name, value in scores.values.items())
        log.info(
            "step %d: %d answers in %.1f s, %d of them cut off: %s",
            *(state.step, count, seconds, cut, told),
        )

    def saved(
        self, published: Any, all_published: list[Any], *, seconds: float, stood_still: float
    ) -> None:
        """``seconds`` from its begin until it was published, of which training did not go on for
        ``stood_still``."""
        self._metrics["checkpoint_seconds"].observe(seconds)
        self._metrics["checkpoint_stall_seconds"].observe(stood_still)
        if not self._first:
            return
        self._metrics["checkpoint_bytes"].set(published.bytes)
        self._metrics["checkpoint_last_success_timestamp_seconds"].set(time.time())
        self._progress.update(checkpoints=[p.content() for p in all_published[-5:]])
        self._line(
            {
                "step": published.step,
                "checkpointBytes": published.bytes,
                "seconds": seconds,
                "stallSeconds": stood_still,
            }
        )

    def _line(self, content: dict[str, Any]) -> None:
        try:
            if self._file is None:
                self.lines.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.lines.open("a")
            content = {"at": round(time.time(), 3), **finite(content)}
            self._file.write(json.dumps(content) + "\n")
            self._file.flush()
        except OSError as error:
            log.warning("cannot write %s: %s", self.lines, error)
