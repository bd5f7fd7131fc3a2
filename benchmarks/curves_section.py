"""The section "Loss curves": how often the rules on over- and underfitting were wrong."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import curves
from benchmarks.curve_rows import Rows
from benchmarks.curves import LEARNT, Run
from benchmarks.record import Section
from benchmarks.verdicts import (
    ALARMS,
    BETTER,
    CUTS,
    FOLLOWED,
    RISEN,
    Curve,
    Judged,
    judged,
    read,
    tally,
)
from finetune_trainer.judging.trend import AHEAD

CONSTANT = {"schedule": {"type": "Constant"}}
LINEAR = {"schedule": {"type": "Linear"}}

CHOICE = (
    Run("llama-prose", "Llama 96×3", Rows("prose", 200), 3e-3, steps=360),
    Run("llama-few-prose", "Llama 96×3", Rows("prose", 12), 3e-3, steps=360),
    Run("gpt2-code", "GPT-2 128×2", Rows("code", 800), 2e-3, steps=360),
    Run("qwen3-chat", "Qwen3 96×2", Rows("chat", 800), 3e-3),
    Run("llama-wrong-chat", "Llama 64×2", Rows("chat", 300, wrong=0.3), 5e-3),
    Run("two-rows-held-out", LEARNT, Rows("prose", 100, held=2), 2e-3),
    Run("row-by-row", LEARNT, Rows("prose", 200), 3e-3, batch=1, training=CONSTANT),
    Run("slow", LEARNT, Rows("prose", 200), 2e-5),
    Run("few-prose", LEARNT, Rows("prose", 20), 1e-3),
    Run("chat", LEARNT, Rows("chat", 400), 1e-3),
    Run("lora-prose", LEARNT, Rows("prose", 200), 3e-3, lora={"rank": 8}),
    Run("lora-few-chat", LEARNT, Rows("chat", 40), 5e-3, lora={"rank": 16}),
    Run(
        "lora-half-wrong", LEARNT, Rows("chat", 200, wrong=0.5), 3e-3,
        lora={"rank": 8, "dropout": 0.1},
    ),
    Run("lora-slow", LEARNT, Rows("chat", 400), 1e-4, lora={"rank": 4}),
    Run("prose-for-code", LEARNT, Rows("prose", 100, held_text="code"), 1e-3),
    Run("too-fast", LEARNT, Rows("code", 400), 2e-2, training=CONSTANT),
)  # fmt: skip
"""Runs that the constants of the rules may be chosen on."""

JUDGED = (
    Run("gpt2-prose", "GPT-2 128×2", Rows("prose", 200), 2e-3, steps=360),
    Run("qwen3-few-code", "Qwen3 96×2", Rows("code", 15), 3e-3, steps=360),
    Run("llama-code-linear", "Llama 64×2", Rows("code", 800), 3e-3, training=LINEAR),
    Run("gpt2-few-chat", "GPT-2 128×2", Rows("chat", 60), 2e-3, training={"dropout": 0.1}),
    Run("llama-chat-constant", "Llama 96×3", Rows("chat", 850), 3e-3, training=CONSTANT),
    Run(
        "sgd-code", "Llama 64×2", Rows("code", 400), 0.3, training={"optimizer": {"type": "SGD"}}
    ),
    Run("four-rows-held-out", LEARNT, Rows("chat", 400, held=4), 1e-3),
    Run(
        "prose-dropout", LEARNT, Rows("prose", 60), 2e-3,
        training={"dropout": 0.2, "optimizer": {"weightDecay": 0.1}},
    ),
    Run("chat-row-by-row", LEARNT, Rows("chat", 300), 2e-3, batch=1, training=CONSTANT),
    Run("neftune-chat", LEARNT, Rows("chat", 100), 1e-3, training={"neftuneNoiseAlpha": 5}),
    Run("lora-few-prose", LEARNT, Rows("prose", 40), 1e-2, lora={"rank": 16}),
    Run(
        "rslora-prose-linear", LEARNT, Rows("prose", 200), 1e-3,
        lora={"rank": 4, "rslora": True}, training=LINEAR,
    ),
    Run("dora-chat", LEARNT, Rows("chat", 400), 2e-3, lora={"rank": 8, "dora": True}),
    Run("lora-wrong-chat", LEARNT, Rows("chat", 300, wrong=0.3), 5e-3, lora={"rank": 8}),
    Run(
        "lora-prose-for-code", LEARNT, Rows("prose", 200, held_text="code"), 1e-3,
        lora={"rank": 8},
    ),
    Run("lora-too-fast", LEARNT, Rows("code", 200), 3e-2, lora={"rank": 8}),
)  # fmt: skip
"""Runs that no constant was chosen on."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="train the runs with this text in their name")
    parser.add_argument("--stored", action="store_true", help="train none: judge what is stored")


def _measure(options: argparse.Namespace) -> str:
    if not options.stored:
        with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
            for run in (*CHOICE, *JUDGED):
                if options.only in run.name:
                    print(curves.write(curves.measure(run, Path(folder))), flush=True)
    return text({curve.name: curve for curve in read(curves.CURVES)})


def text(stored: dict[str, Curve]) -> str:
    """The tables, of all runs whose curves are there."""
    choice, unseen = (
        [judged(stored[run.name]) for run in runs if run.name in stored]
        for runs in (CHOICE, JUDGED)
    )
    both = tally([*choice, *unseen])
    said = "\n".join(
        f"| {finding} | {count} | {false} |" for finding, (count, false) in both.findings.items()
    )
    rows = "\n".join(_row(run) for run in (*choice, *unseen))
    early, late = (f"{cut:.0%}" for cut in CUTS)
    return f"""
Small models, text of this repository, one rank on one core, {curves.EVALUATIONS} evaluations each,
none stopped early. Each evaluation is judged with the default policy and the points up to it; what
the run did afterwards tells whether that was right:

- Overfitting and NoImprovement are false where the held-out loss later falls below the best so far
  by more than {BETTER:.0%} of it; WorseThanBase where it falls below the base's by as much.
- Diverged is not among them: it is said of runs whose loss on training rows lies above that of the
  untouched model, which these curves do not hold.
- Underfitting is what the rules say where the run is cut at {early} and {late} of its steps. It is
  false where {FOLLOWED:.0%} more steps bring less than it promises for {AHEAD:.0%}.
- Missed is a run that ends more than {RISEN:.0%} above its best loss with no alarm at all.

{len(choice)} runs on which constants could be chosen: {tally(choice).sentence()}.
{len(unseen)} runs that none was chosen on: {tally(unseen).sentence()}.
**All {both.runs}: {both.sentence()}.**

The second half is not quite unseen: at the first look at it 2 of its 15 runs were false, and one
of two changes of the rule Overfitting, which has no constant, was chosen on all runs. Fresh runs
(`curves` without `--stored`) would settle it.

| verdict | said | false |
|---|---|---|
{said}

| run | base | best, at step | last | first alarm | Underfitting | false |
|---|---|---|---|---|---|---|
{rows}
"""


def _row(run: Judged) -> str:
    curve = run.curve
    best = min(curve.points, key=lambda point: point.eval_loss)
    alarm = next((v for v in run.verdicts if v.finding in ALARMS), None)
    told = f"{alarm.finding} {alarm.step}" if alarm else ""
    cuts = ", ".join(str(v.step) for v in run.verdicts if v.finding == "Underfitting")
    return (
        f"| {curve.name} | {curve.base:.3g} | {best.eval_loss:.3g}, {best.step} "
        f"| {curve.points[-1].eval_loss:.3g} | {told} | {cuts} | {len(run.false) or ''} |"
    )


SECTION = Section("Loss curves", _measure, _add_options)
