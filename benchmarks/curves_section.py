"""The section "Loss curves": how often the rules on over- and underfitting were wrong."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

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
SGD = {"optimizer": {"type": "SGD"}}

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
    Run("sgd-code", "Llama 64×2", Rows("code", 400), 0.3, training=SGD),
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

SEED = 7
AGAIN = tuple(
    replace(run, name=f"{run.name}-again", training={**run.training, "seed": SEED})
    for run in (*CHOICE, *JUDGED)
)
"""All of them with another seed: no rule was changed by them."""

AWAY = (
    Run("away", LEARNT, Rows("code", 200), 0.1, steps=120, training=CONSTANT),
    Run("lora-away", LEARNT, Rows("code", 200), 0.1, steps=120, lora={"rank": 8}),
    Run("chat-away", LEARNT, Rows("chat", 300), 0.1, steps=120, training=CONSTANT),
    Run("sgd-away", LEARNT, Rows("code", 200), 30.0, steps=120, training=SGD),
    Run("prose-away", LEARNT, Rows("prose", 200), 0.1, steps=120, training=LINEAR),
    Run("row-by-row-away", LEARNT, Rows("prose", 100), 0.1, steps=120, batch=1, training=CONSTANT),
    Run(
        "lora-chat-away", LEARNT, Rows("chat", 300), 0.3, steps=120, lora={"rank": 8},
        training=CONSTANT,
    ),
    Run("gpt2-away", "GPT-2 128×2", Rows("code", 400), 0.3, steps=120, training=CONSTANT),
)  # fmt: skip
"""Learning rates that are much too high."""

TENTH = tuple(replace(run, name=f"{run.name}-tenth", rate=run.rate / 10) for run in AWAY)
"""What Diverged says to try."""

JOLT = (
    Run("jolt", LEARNT, Rows("prose", 200), 2e-2),
    Run("lora-jolt", LEARNT, Rows("prose", 200), 3e-2, lora={"rank": 8}),
    Run("chat-jolt", LEARNT, Rows("chat", 400), 2e-2),
    Run("code-jolt", LEARNT, Rows("code", 700), 1e-2, training=LINEAR),
)
"""Rates so high that losses rise, and may fall below those of the untouched model later."""

HIGH = (*AWAY, *TENTH, *JOLT)
ALL = (*CHOICE, *JUDGED, *AGAIN, *HIGH)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="train the runs with this text in their name")
    parser.add_argument("--stored", action="store_true", help="train none: judge what is stored")


def _measure(options: argparse.Namespace) -> str:
    if not options.stored:
        with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
            for run in ALL:
                if options.only in run.name:
                    print(curves.write(curves.measure(run, Path(folder))), flush=True)
    return text({curve.name: curve for curve in read(curves.CURVES)})


def text(stored: dict[str, Curve]) -> str:
    """The tables, of all runs whose curves are there."""
    choice, unseen, again, high = (
        [judged(stored[run.name]) for run in runs if run.name in stored]
        for runs in (CHOICE, JUDGED, AGAIN, HIGH)
    )
    all_runs = (*choice, *unseen, *again, *high)
    every = tally(all_runs)
    said = "\n".join(
        f"| {finding} | {found.verdicts} | {found.false} | {found.runs} | {found.false_runs} |"
        for finding, found in every.findings.items()
    )
    evaluations = sum(len(run.curve.points) for run in all_runs)
    rows = "\n".join(_row(run) for run in all_runs)
    early, late = (f"{cut:.0%}" for cut in CUTS)
    return f"""
Small models, text of this repository, one rank on one core, {curves.EVALUATIONS} evaluations each,
none stopped early. Each evaluation is judged with the default policy and the points up to it; what
the run did afterwards tells whether that was right:

- Overfitting and NoImprovement are false where the held-out loss later falls below the best so far
  by more than {BETTER:.0%} of it; Diverged and WorseThanBase where it falls below the base's by as
  much. What they say at the end is a fact and no forecast.
- Underfitting is what the rules say where the run is cut at {early} and {late} of its steps. It is
  false where {FOLLOWED:.0%} more steps bring less than it promises for {AHEAD:.0%}.
- Missed is a run that ends more than {RISEN:.0%} above its best loss with no alarm at all.
- A run has diverged that ends more than {RISEN:.0%} above the untouched model, on held-out and on
  training rows. The first two groups do not hold the latter for the untouched model, so nothing of
  them is called Diverged.

{len(choice)} runs on which constants could be chosen: {tally(choice).sentence()}.
{len(unseen)} runs that none was chosen on: {tally(unseen).sentence()}.
{len(again)} runs, the same with another seed and the text as it is now: {tally(again).sentence()}.
{len(high)} runs with rates that are too high, or nearly: {tally(high).sentence()}.
**All {every.runs}, at {evaluations} evaluations: {every.sentence()}.**

Of the {every.diverged} runs that diverged, {every.diverged - every.untold} were told so while they
trained, {_when(all_runs)}. With a tenth of the rate, as Diverged advises,
{_tenth(stored)}.

The second group is not quite unseen: at the first look at it 2 of its 15 runs were false, and one
of two changes of the rule Overfitting, which has no constant, was chosen on all runs of the first
two groups. That Diverged and WorseThanBase wait for losses that are on their way below the base was
chosen on the last group, and on the first two made anew. No rule was changed by the third group.

| verdict | said | false | in so many runs | false in |
|---|---|---|---|---|
{said}

| run | base | best, at step | last | first alarm | Underfitting | false |
|---|---|---|---|---|---|---|
{rows}
"""


def _when(runs: Iterable[Judged]) -> str:
    """At which share of the steps runs that diverged were told so."""
    shares = [run.told / run.curve.steps for run in runs if run.curve.diverged and run.told]
    if not shares:
        return "at no evaluation"
    return (
        f"after {min(shares):.0%} to {max(shares):.0%} of their steps (median {median(shares):.0%})"
    )


def _tenth(stored: dict[str, Curve]) -> str:
    """What came of the advice to try a tenth of the rate."""
    pairs = [
        (stored[run.name].points[-1].eval_loss, stored[tenth.name])
        for run, tenth in zip(AWAY, TENTH, strict=True)
        if run.name in stored and tenth.name in stored
    ]
    lower = sum(tenth.points[-1].eval_loss < last for last, tenth in pairs)
    below = sum(tenth.points[-1].eval_loss < tenth.base for _, tenth in pairs)
    return (
        f"the last loss is lower in {lower} of {len(pairs)} runs, and below the base's in {below}"
    )


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
