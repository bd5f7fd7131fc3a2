"""The training loop: windows in, weights out, and an account of every step."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_trainer import diagnosis
from finetune_trainer.bad_numbers import BadNumbers
from finetune_trainer.batches import (
    Batch,
    Indices,
    PackedRows,
    Window,
    Windows,
    collate,
    share_of,
)
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.engine import Engine, StepOutcome
from finetune_trainer.errors import BadData, DiskFull, NonFinite, Preempted
from finetune_trainer.gang import Gang
from finetune_trainer.heartbeat import Phase
from finetune_trainer.interval import Interval
from finetune_trainer.judging.datasets import ScoredRows
from finetune_trainer.judging.decode import Signals
from finetune_trainer.judging.evaluator import Evaluator
from finetune_trainer.judging.paired import PairedRows
from finetune_trainer.loss import accepts_logits_to_keep, loss_sum
from finetune_trainer.reporter import Reporter
from finetune_trainer.saver import Saver
from finetune_trainer.schedule import learning_rate
from finetune_trainer.shutdown import Shutdown
from finetune_trainer.state import TrainState
from finetune_trainer.steps import planned_steps

if TYPE_CHECKING:
    from finetune_trainer.judging.questions import Questions

SPEED_WINDOW = 20
"""Steps over which tokens per second and the time left are averaged."""

log = logging.getLogger(__name__)


@dataclass
class Loop:
    """One attempt's training, from ``state.step`` to the last planned step."""

    config: RunConfig
    engine: Engine
    gang: Gang
    train_rows: PackedRows
    scored_rows: Sequence[ScoredRows]
    checkpoints: Checkpoints
    shutdown: Shutdown
    reporter: Reporter
    state: TrainState = field(default_factory=TrainState)
    questions: Questions | None = None
    paired_rows: PairedRows | None = None

    def __post_init__(self) -> None:
        training = self.config.training
        if len(self.train_rows) == 0:
            raise BadData("spec.data.train: there is no row to train on")
        self.steps = planned_steps(self.config, len(self.train_rows))
        self.windows = Windows(
            self.train_rows,
            seed=training.seed,
            global_batch_size=self.config.global_batch_size,
        )
        self.numbers = BadNumbers(self.config.recovery, self.state)
        self._parts: list[tuple[Indices, torch.Tensor]] = []
        """Rows and summed loss of each micro-batch of the current step, on this rank."""
        self._keep = accepts_logits_to_keep(self.engine.module)
        self._costs = self.engine.costs.of(self.train_rows)
        self._first = self.state.step
        self._interval = Interval(self.config.checkpoint.seconds)
        self._overdue = False
        """All ranks know that it is over."""
        self.kept: int | None = None
        """The step that the final weights are of, where that is not the last one."""
        self._compute_seconds = 0.0
        """Of the current step: forward, backward and optimizer."""
        self._recent: deque[tuple[int, float]] = deque(maxlen=SPEED_WINDOW)
        self.reporter.planned(
            self.steps, self.state, self.windows.per_epoch, self.checkpoints.published
        )
        self.saver = Saver(
            self.engine,
            self.checkpoints,
            self.reporter,
            asynchronous=self.config.checkpoint.asynchronous,
        )
        self.evaluator = Evaluator(
            self.config,
            self.engine,
            self.gang,
            self.reporter,
            Signals(
                on_pass=lambda: self.reporter.beat("eval", self.state.step),
                stop=lambda: self.shutdown.agreed,
                vote=lambda: self.saver.vote,
                voted=lambda votes: self.saver.settle(votes, self.state),
            ),
            scored_rows=self.scored_rows,
            train_rows=self.train_rows,
            questions=self.questions,
            paired_rows=self.paired_rows,
            logits_to_keep=self._keep,
            steps=self.steps,
        )

    def run(self) -> None:
        """Train to the end. Raises ``Preempted`` after a checkpoint when asked to stop."""
        self.engine.train()
        self._phase("train")
        while True:
            # Looked at before a step and not after one, so that a resumed run catches up on what
            # the stopped one had no time for.
            if not self.evaluator.run(self.state, last=self._over):
                self._leave()
            if self._over:
                self._conclude()
                return
            if self._save_due():
                self.saver.save(self.state)
            elif self._overdue:
                self._save_unasked()
            if self._step():
                self._leave()

    @property
    def _over(self) -> bool:
        return self.state.stopped or self.state.step >= self.steps

    def _save_due(self) -> bool:
        due = (
            self._due(self.config.checkpoint.every_steps)
            or self.evaluator.kept(self.state) == self.state.step
        )
        return due and self.state.step > self._first

    def _save_unasked(self) -> None:
        """Training stands still, because no memory was planned for a copy. Where the volume has no
        room for what nobody asked for, that is no reason to end."""
        self._overdue = False
        self.saver.finish(self.state)
        began = time.monotonic()
        try:
            self.saver.save_now(self.state)
        except DiskFull as full:
            log.warning("no more checkpoints until training is asked to stop: %s", full)
            self._interval.stop()
            self._phase("train")
        else:
            self._interval.saved(time.monotonic() - began)

    def _conclude(self) -> None:
        """Choose the weights that are kept, and have them answer."""
        self.saver.finish(self.state)
        best = self.evaluator.kept(self.state)
        if best is None or best == self.state.step:
            if not self.evaluator.conclude(self.state):
                self._leave()
            return
        self._phase("load")
        self.checkpoints.restore(self.engine, best)
        self.kept = best
        log.info("back to the weights of step %d, which had the lowest held-out loss", best)
        if not self.evaluator.conclude(self.state, restored=best):
            # What the engine holds now is not the state after the last step: nothing is saved.
            raise Preempted("asked to stop amid the last evaluation; the next attempt repeats it")

    def _step(self) -> bool:
        """Train on one window. Returns whether the ranks agreed to stop after it."""
        began = time.monotonic()
        window = self.windows[self.state.step]
        if self.config.recovery.passes_over(window.step + 1):
            return self._pass_over(window)
        rate = learning_rate(
            self.config.training.schedule,
            self.config.training.learning_rate,
            self.state.step,
            self.steps,
        )
        agreed: list[float] = []

        def exchange(mine: float) -> list[float]:
            over = self.gang.is_first and self._interval.over
            votes = float(self.shutdown.agreed), self.saver.vote, float(over)
            return list(self.gang.sums(mine, *votes))

        def unwanted(mine: float) -> bool:
            agreed[:] = exchange(mine)
            return self.numbers.spike(agreed[0] / window.supervised) is not None

        early = unwanted if self.numbers.refuses_spikes else None
        mine, outcome = self.train_window(window, rate, early)
        summed, stop, written, over = agreed or exchange(mine)
        self._overdue = bool(over)
        loss = summed / window.supervised if window.supervised else math.nan
        seconds = time.monotonic() - began
        self._account(window)
        skipped = self._judge(window, loss, outcome)
        self._recent.append((window.tokens, seconds))
        self.reporter.step_done(
            self.state,
            {
                "loss": loss if window.supervised else None,
                "learningRate": rate,
                # That of a refused step was made not finite on purpose.
                "gradNorm": outcome.grad_norm if outcome and not outcome.refused else None,
            },
            window=window,
            skipped=skipped,
            seconds=seconds,
            compute_seconds=self._compute_seconds,
            speed=self._speed(),
            eta=self._eta(),
            loss_scale=self.engine.loss_scale,
        )
        if self.engine.device.type == "cuda":
            self.reporter.gpu_memory(*gpu_memory())
        self.saver.settle(written, self.state)
        return bool(stop)

    def train_window(
        self, window: Window, rate: float, unwanted: Callable[[float], bool] | None = None
    ) -> tuple[float, StepOutcome | None]:
        """Gradients of this rank's share, then one update of all ranks.

        ``unwanted`` is asked before the last backward pass, with this rank's part of the loss sum,
        on all ranks together: whether the step is not to count.

        Returns this rank's part of the loss sum, and None for the outcome where the window has no
        supervised token and therefore no gradient.
        """
        self._compute_seconds = 0.0
        if window.supervised == 0:
            return 0.0, None
        total = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        # The engine averages over ranks; what we want is the sum over all of them, divided by
        # the number of targets in the whole window.
        scale = self._scale(window)
        refused = False
        self._parts = []
        share = self._share(window)
        for number, rows in enumerate(share, 1):
            batch = self._batch(rows)
            began = time.monotonic()
            summed = loss_sum(
                self.engine,
                batch.to(self.engine.device),
                logits_to_keep=self._keep,
                head=self.engine.head,
            )
            total += summed.detach()
            self._parts.append((rows, summed.detach()))
            if number == len(share) and unwanted is not None:
                refused = unwanted(float(total))
            self.engine.backward(summed * (math.nan if refused else scale))
            self._compute_seconds += time.monotonic() - began
            self.reporter.beat("train", self.state.step)
        began = time.monotonic()
        outcome = self.engine.refuse(rate) if refused else self.engine.step(rate)
        summed_here = float(total)  # waits for the device, so that its work counts as such
        self._compute_seconds += time.monotonic() - began
        return summed_here, outcome

    def _share(self, window: Window) -> list[Indices]:
        """This rank's micro-batches, with dropout seeded for them."""
        training, place = self.config.training, self.gang.place
        seed_for_step(training.seed, window.step, place.rank)
        return share_of(
            window.rows,
            self._costs[window.rows],
            rank=place.rank,
            world_size=place.world_size,
            micro_batch_size=training.micro_batch_size,
        )

    def _batch(self, rows: Indices) -> Batch:
        chosen = [self.train_rows.row(int(number)) for number in rows]
        return collate(chosen, rounded=self.engine.few_shapes)

    def _scale(self, window: Window) -> float:
        return self.gang.place.world_size / window.supervised

    def _pass_over(self, window: Window) -> bool:
        """Leave a window out that ended an earlier attempt. Returns whether to stop."""
        (stop,) = self.gang.sums(float(self.shutdown.agreed))
        self.state.step = window.step + 1
        self.state.samples = self.windows.samples_before(self.state.step)
        self.numbers.count(self.state.step, "passed_over")
        self.reporter.passed_over(self.state)
        return bool(stop)

    def _account(self, window: Window) -> None:
        self.state.step = window.step + 1
        self.state.samples = self.windows.samples_before(self.state.step)
        self.state.tokens += window.tokens
        self.state.supervised_tokens += window.supervised

    def _judge(self, window: Window, loss: float, outcome: StepOutcome | None) -> str | None:
        """Count what was skipped and tell what was bad. Returns why the step changed no weight.

        Raises ``NonFinite`` or ``LossSpike`` where the policy ends training here.
        """
        step = self.state.step
        spikes = self.state.loss_spikes
        found = self.numbers.judge(step, loss, outcome)
        self.reporter.judged(self.state, found.skipped, spike=self.state.loss_spikes > spikes)
        if found.ends is not None:
            where = self._not_finite(window) if found.ends is NonFinite else self._highest()
            self.saver.finish(self.state)  # copied before this step, so the way back is shorter
            self.reporter.beat("train", window.step)  # the failure is told of this step
            raise found.ends(found.fault + where if found.fault else where, hint=found.hint)
        if found.fault is not None:
            rows = ", ".join(str(row) for row in window.rows[:16])
            what = "not applied" if found.skipped else "applied"
            log.warning("%s: %s; packed rows %s", found.fault, what, rows)
        return found.skipped

    def _not_finite(self, window: Window) -> str:
        self.reporter.beat("train", window.step)
        place = diagnosis.not_finite(
            self.engine,
            ((rows, self._batch(rows)) for rows in self._share(window)),
            scale=self._scale(window),
            logits_to_keep=self._keep,
        )
        return diagnosis.tell(self.gang.gather(place))

    def _highest(self) -> str:
        targets = self.train_rows.num_supervised
        mine = diagnosis.highest(
            (rows, float(summed), int(targets[rows].sum())) for rows, summed in self._parts
        )
        return diagnosis.tell_highest(self.gang.gather(mine))

    def _due(self, every: int | None) -> bool:
        return every is not None and self.state.step % every == 0

    def _leave(self) -> None:
        """All ranks agreed to stop: save what is new, then go."""
        if self.state.step > self._first:
            self.saver.save_now(self.state)
        raise Preempted(f"asked to stop; everything up to step {self.state.step} is saved")

    def _phase(self, phase: Phase) -> None:
        self.reporter.phase(phase, self.state.step)

    def _speed(self) -> float:
        tokens = sum(count for count, _ in self._recent)
        return tokens / sum(seconds for _, seconds in self._recent)

    def _eta(self) -> float:
        per_step = sum(seconds for _, seconds in self._recent) / len(self._recent)
        return (self.steps - self.state.step) * per_step


def gpu_memory() -> tuple[int, int, int]:
    """Bytes of this rank's GPU at the worst moment so far: what torch had given out, what it had
    reserved, and that with what the process needs besides."""
    free, total = torch.cuda.mem_get_info()
    besides = total - free - torch.cuda.memory_reserved()
    reserved = torch.cuda.max_memory_reserved()
    return torch.cuda.max_memory_allocated(), reserved, reserved + max(0, besides)


def seed_for_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank): a resumed run draws what the other drew."""
    drawn = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]))


def result_of(loop: Loop) -> dict[str, Any]:
    """The final numbers of a job, for its outcome."""
    trained = loop.reporter.step_seconds
    return {
        "step": loop.state.step,
        "steps": loop.steps,
        "tokens": loop.state.tokens,
        "tokensPerSecond": round(loop.reporter.attempt_tokens / trained, 1) if trained else None,
        "metrics": loop.state.metrics,
        "checkpoints": [p.content() for p in loop.checkpoints.published[-5:]],
        "best": loop.state.best,
        "keptStep": loop.kept,
        "signatures": loop.evaluator.signatures or None,
        **loop.state.told,
        "peakMemoryBytes": loop.reporter.peak_memory,
        "account": loop.reporter.account.content(),
    }
