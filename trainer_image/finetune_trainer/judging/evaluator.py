"""When the model is scored, and what is remembered and told of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_trainer.batches import Indices, PackedRows
from finetune_trainer.config import RunConfig
from finetune_trainer.engine import Engine
from finetune_trainer.evaluate import Evaluation, evaluate
from finetune_trainer.gang import Gang
from finetune_trainer.judging import paired, table
from finetune_trainer.judging.course import Course, Point, remembered
from finetune_trainer.judging.curve import judge
from finetune_trainer.judging.datasets import Scored, ScoredRows, entries, sample_of
from finetune_trainer.judging.decode import Signals, decode
from finetune_trainer.judging.paired import PairedRows
from finetune_trainer.judging.scores import Scores, score
from finetune_trainer.reporter import Reporter
from finetune_trainer.state import TrainState

if TYPE_CHECKING:
    from finetune_trainer.judging.questions import Questions

BASE = "base.jsonl"
"""The untouched model's answers, in the folder of the questions."""
log = logging.getLogger(__name__)


class Evaluator:
    """Scores the model as it is. All methods are collective; they return False when the ranks were
    asked to stop, and then the same is due again."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        gang: Gang,
        reporter: Reporter,
        signals: Signals,
        *,
        scored_rows: Sequence[ScoredRows],
        train_rows: PackedRows,
        questions: Questions | None,
        paired_rows: PairedRows | None = None,
        logits_to_keep: bool,
        steps: int,
    ) -> None:
        self._config = config
        self._engine = engine
        self._gang = gang
        self._reporter = reporter
        self._signals = signals
        by_role = {each.role: each for each in scored_rows}
        self._held, self._general = by_role.get("Eval"), by_role.get("General")
        self._policy = config.evaluation.overfitting
        self._sample = sample_of(
            train_rows, len(self._held.rows) if self._held else 0, config.training.seed
        )
        self._steps = steps
        self._questions = questions
        self._paired = paired_rows
        self._keep = logits_to_keep
        self.signatures: dict[str, str] = {}
        """How the newest scores were computed, where their library says so."""

    def run(self, state: TrainState, *, last: bool) -> bool:
        """Whatever is due after ``state.step`` steps; ``last``: there is no further one."""
        loss, answers = self._loss_due(state, last), self._answers_due(state, last)
        if not (loss or answers):
            return True
        self._reporter.phase("eval", state.step)
        done = (not loss or self._measure(state, last)) and (not answers or self._ask(state))
        if done:
            self._reporter.phase("train", state.step)
        return done

    def kept(self, state: TrainState) -> int | None:
        """The step whose weights are the job's result by its policy; None: the last one's."""
        if self._policy.action != "StopKeepBest" or state.best is None:
            return None
        return int(state.best["step"])

    def conclude(self, state: TrainState, restored: int | None = None) -> bool:
        """Scores and answers of the model that is kept, and the table of them.

        ``restored``: the step whose weights the engine has got back.
        """
        self._reporter.phase("eval", state.step)
        if restored is not None and self._held:
            scored = self._score(self._held)
            if scored is None:
                return False
            self._check(state, scored.held[1])
            _note(state, scored)
            self._reporter.evaluated(state, scored, baseline=False, restored=restored)
        if not self._compare(state, final=True):
            return False
        return self._questions is None or self._ask(state, final=True, restored=restored)

    def _check(self, state: TrainState, result: Evaluation) -> None:
        known = (state.best or {}).get("evalLoss", math.nan)
        if not math.isclose(known, result.loss, rel_tol=1e-3):
            log.warning(
                "the loss of the weights that came back is %.6g, not %.6g", result.loss, known
            )

    def _loss_due(self, state: TrainState, last: bool) -> bool:
        if self._held is None or state.evaluated_step == state.step:
            return False
        if state.step == 0:
            return self._config.evaluation.baseline
        return last or _every(self._config.evaluation.every_steps, state.step)

    def _answers_due(self, state: TrainState, last: bool) -> bool:
        if self._questions is None or last or state.answered_step == state.step:
            return False
        if state.step == 0:
            return self._config.evaluation.baseline
        return _every(self._questions.wish.every_steps, state.step)

    def _measure(self, state: TrainState, last: bool) -> bool:
        assert self._held is not None  # noqa: S101 - by the caller
        scored = self._score(self._held)
        if scored is None or (state.step == 0 and not self._compare(state)):
            return False
        self._remember(state, scored, last)
        return True

    def _compare(self, state: TrainState, *, final: bool = False) -> bool:
        """Paired prompts, if the job has any."""
        if self._paired is None:
            return True
        wish, rows = self._paired.wish, self._paired.rows
        result = self._evaluate(rows, np.arange(len(rows)))
        if result is None:
            return False
        found = paired.differences(result)
        known = state.metrics.get("pairedPrompts", ())
        told = paired.entries(wish, found, known, base=not final)
        state.metrics = {**state.metrics, "pairedPrompts": told}
        self._reporter.compared(state, told, seconds=result.seconds)
        if self._gang.is_first:
            asked = self._config.evaluation.baseline
            attempt = self._reporter.lines.parent if final else None
            paired.write(self._paired, found, attempt, with_base=asked)
        return True

    def _score(self, held: ScoredRows) -> Scored | None:
        """The held-out rows, the general ones if there are any, and the loss on training rows if
        the policy wants it. None: the ranks were asked to stop."""
        result = self._evaluate(held.rows, held.sources)
        general = on_train = None
        if result is not None and self._general is not None:
            general = self._evaluate(self._general.rows, self._general.sources)
            result = result if general is not None else None
        if result is not None and self._policy.action != "Ignore":
            on_train = self._evaluate(self._sample)
            result = result if on_train is not None else None
        if result is None:
            return None
        return Scored(
            (held, result),
            (self._general, general) if self._general and general else None,
            on_train.loss if on_train else None,
        )

    def _evaluate(self, rows: PackedRows, groups: Indices | None = None) -> Evaluation | None:
        return evaluate(
            self._engine,
            self._gang,
            rows,
            micro_batch_size=self._config.training.micro_batch_size,
            logits_to_keep=self._keep,
            groups=groups,
            on_pass=self._signals.on_pass,
            stop=self._signals.stop,
            vote=self._signals.vote,
            voted=self._signals.voted,
        )

    def _remember(self, state: TrainState, scored: Scored, last: bool) -> None:
        result, on_train = scored.held[1], scored.on_train
        _note(state, scored)
        state.evaluated_step = state.step
        if state.step > 0:
            best = state.best
            if math.isfinite(result.loss) and (best is None or result.loss < best["evalLoss"]):
                state.best = {"step": state.step, "evalLoss": result.loss}
            entry = {"step": state.step, "evalLoss": result.loss, "trainLoss": on_train}
            state.curve = remembered([*state.curve, entry], state.best)
            self._judge(state, last)
        self._reporter.evaluated(state, scored, baseline=state.step == 0)

    def _judge(self, state: TrainState, last: bool) -> None:
        base = state.metrics.get("baseline") or {}
        found = judge(
            Course(
                [Point(p["step"], p["evalLoss"], p["trainLoss"]) for p in state.curve],
                self._policy,
                base=base.get("evalLoss"),
                base_on_train=base.get("trainSampleLoss"),
                share=1.0 if last else state.step / self._steps,
                lora=self._config.method.lora is not None,
            )
        )
        state.judgement = found.content() if found else None
        # After the last step there is nothing to stop.
        state.stopped = state.stopped or (found is not None and found.stop and not last)
        if found:
            log.info("step %d: %s: %s", state.step, found.finding, found.message)

    def _ask(self, state: TrainState, *, final: bool = False, restored: int | None = None) -> bool:
        questions = self._questions
        assert questions is not None  # noqa: S101 - by the callers
        began = time.monotonic()
        answers = decode(
            self._engine,
            self._gang,
            [prompt.ids for prompt in questions.prompts],
            questions.how,
            logits_to_keep=self._keep,
            signals=self._signals,
        )
        if answers is None:
            return False
        scores, rows = None, []
        if self._gang.is_first:
            texts = [questions.text(answer) for answer in answers]
            references = [prompt.reference for prompt in questions.prompts]
            wish = questions.wish
            scores = score(wish.metrics, texts, references, wish.regex)
            rows = table.spoken(texts, answers, scores)
        scores = self._gang.broadcast(scores)
        self.signatures = scores.signatures
        _note_numbers(state, scores.values)
        state.answered_step = state.step
        cut = sum(answer.cut for answer in answers)
        self._reporter.answered(
            state,
            scores,
            count=len(answers),
            cut=cut,
            seconds=time.monotonic() - began,
            restored=restored,
        )
        if self._gang.is_first:
            self._publish(questions, state, scores, rows, final=final, restored=restored)
        return True

    def _publish(
        self,
        questions: Questions,
        state: TrainState,
        scores: Scores,
        rows: list[dict[str, Any]],
        *,
        final: bool,
        restored: int | None,
    ) -> None:
        """On rank 0 alone. A table that cannot be written harms no training."""
        try:
            if state.step == 0:
                table.write_rows(questions.folder / BASE, rows)
            if final:
                step = state.step if restored is None else restored
                self._write_table(questions, state, step, scores, rows)
        except OSError as error:
            log.warning("the answers cannot be written: %s", error)

    def _write_table(
        self,
        questions: Questions,
        state: TrainState,
        step: int,
        scores: Scores,
        tuned: list[dict[str, Any]],
    ) -> None:
        folder: Path = self._reporter.lines.parent
        asked = self._config.evaluation.baseline
        base = table.read_rows(questions.folder / BASE, len(tuned)) if asked else None
        rows = table.table(questions.prompts, base, tuned)
        table.write_rows(folder / table.ANSWERS, rows)
        facts = {
            "job": self._config.job.name,
            "step": step,
            "maxNewTokens": questions.wish.max_new_tokens,
            "metrics": state.metrics,
            "signatures": scores.signatures,
        }
        table.write_page(folder / table.PAGE, rows, facts)


def _every(steps: int | None, step: int) -> bool:
    return steps is not None and step % steps == 0


def _note(state: TrainState, scored: Scored) -> None:
    """Into the newest numbers, all together and source by source."""
    of_each = entries(
        [scored.held, *([scored.general] if scored.general else [])],
        state.metrics.get("datasets", ()),
        base=state.step == 0,
    )
    _note_numbers(state, scored.numbers)
    if of_each:
        state.metrics = {**state.metrics, "datasets": of_each}


def _note_numbers(state: TrainState, numbers: dict[str, float]) -> None:
    """Into the newest numbers, and into those of the untouched model if it is that."""
    baseline = state.metrics.get("baseline")
    if state.step == 0:
        baseline = {**(baseline or {}), **numbers}
    state.metrics = {
        **state.metrics,
        **numbers,
        **({"baseline": baseline} if baseline is not None else {}),
    }
