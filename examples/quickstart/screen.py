"""The last screen: what it took, what was learned, where it lies, what to try next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotext  # type: ignore[import-untyped]
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from quickstart.answers import Answers, CurvePoint
from quickstart.dataset import Question
from quickstart.display import seconds
from quickstart.facts import QuestionSet
from quickstart.options import NAMESPACE
from quickstart.proof import Proof, is_right

SHOWN_PROMPTS = 5
CURVE_HEIGHT = 14
WIDTH = 100


@dataclass(frozen=True)
class Outcome:
    """All that the screen shows."""

    name: str
    times: Sequence[tuple[str, float]]
    """(stage, seconds); stages overlap."""
    total_seconds: float
    proof: Proof
    questions: Sequence[Question]
    asked: QuestionSet
    """Where the questions are from: a figure on dev must not pass for one on test."""
    answers: Answers
    tokens_per_second: float | None
    claim: str
    folder: str
    """The merged model's folder on the claim."""
    host_folder: Path | None
    metrics: str
    """URL, or the command that opens one."""
    shell: Sequence[str]
    kubectl: str
    """How commands to the cluster begin."""
    again: str
    """How the quickstart is started once more."""
    farewell: str


def show(console: Console, outcome: Outcome) -> None:
    width = min(console.width, WIDTH)
    parts: list[RenderableType] = [
        Rule(f"{NAMESPACE}/{outcome.name}: done in {seconds(outcome.total_seconds)}"),
        _times(outcome),
        Rule("Loss", style="dim"),
        Text.from_ansi(loss_chart(outcome.answers.curve, width=width - 2)),
        Text("  line: each training step   ●: held-out questions", style="dim"),
        Rule("What it learned", style="dim"),
        _scores(outcome),
        _prompts(outcome),
        verdict(outcome.proof),
    ]
    console.print(Group(*parts), width=width, highlight=False)
    # Paths and commands are for copying: long ones must not be broken by us.
    lines = [
        Text("Where it is", style="bold"),
        *(Text(f"  {label:<13} {place}") for label, place in _places(outcome)),
        Text("Try next", style="bold"),
        *(Text(f"  {line}") for line in next_steps(outcome)),
        Text(f"The cluster stays up. To take it away: {outcome.farewell}", style="dim"),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def loss_chart(curve: Sequence[CurvePoint], *, width: int) -> str:
    """Training loss as a line, held-out loss as dots, over steps; text with ANSI colours."""
    trained = [(point.step, point.loss) for point in curve if point.loss is not None]
    held_out = [(point.step, point.held_out) for point in curve if point.held_out is not None]
    if not trained:
        return "  no step was recorded"
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, CURVE_HEIGHT)
    line = figure.signal([x for x, _ in trained], [y for _, y in trained], marker="braille")
    line.lines()
    figure.draw(line)
    if held_out:
        dots = figure.signal([x for x, _ in held_out], [y for _, y in held_out], marker="●")
        figure.draw(dots)
    last = max(point.step for point in curve)
    spacing = math.ceil(max(last, 1) / 6)
    figure.ruler("x").ticks(list(range(0, last + 1, spacing)))
    chart: str = figure.build().string()
    return chart.rstrip("\n")


def verdict(proof: Proof) -> Text:
    """One sentence: does the proof hold, and by which figures."""
    loss = f"loss {proof.tuned_loss / proof.base_loss:.2f} × base"
    loss += f" ({'≤' if proof.loss_holds else '>'} {proof.bar.loss_ratio})"
    gain = f"key facts {proof.tuned_accuracy - proof.base_accuracy:+.0f} points"
    gain += f" ({'≥' if proof.accuracy_holds else '<'} {proof.bar.accuracy_gain:.0f})"
    if proof.holds:
        return Text(f"✓ The model learned: {loss}, {gain}.", style="bold green")
    return Text(f"✗ The model did not learn enough: {loss}, {gain}.", style="bold red")


def next_steps(outcome: Outcome) -> list[str]:
    return [
        *outcome.shell,
        f"{outcome.kubectl} describe finetunejob {outcome.name} --namespace {NAMESPACE}",
        f"{outcome.kubectl} explain finetunejob.spec.training",
        f"$EDITOR examples/quickstart/facts.yaml && {outcome.again}    # teach it other facts",
    ]


def _times(outcome: Outcome) -> Table:
    """Stages in two columns; they overlap, so they add up to more than the total."""
    table = Table.grid(padding=(0, 3))
    cells = [(Text(name), Text(seconds(took), style="cyan")) for name, took in outcome.times]
    half = math.ceil(len(cells) / 2)
    for left, right in zip(cells[:half], [*cells[half:], (Text(), Text())], strict=False):
        table.add_row(Text(" "), *left, *right)
    return table


def _scores(outcome: Outcome) -> Table:
    proof = outcome.proof
    table = Table(box=None, pad_edge=True, padding=(0, 3))
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(name, justify="right")
    base, tuned = proof.base_loss, proof.tuned_loss
    table.add_row("held-out loss", f"{base:.3f}", f"{tuned:.3f}")
    table.add_row("held-out perplexity", f"{math.exp(base):.2f}", f"{math.exp(tuned):.2f}")
    table.add_row(
        f"key facts, {proof.questions} {outcome.asked} questions",
        f"{proof.base_accuracy:.0f} %",
        f"{proof.tuned_accuracy:.0f} %",
    )
    if outcome.tokens_per_second:
        table.add_row("training speed", "", f"{outcome.tokens_per_second:.0f} tokens/s")
    return table


def _prompts(outcome: Outcome) -> Group:
    """Held-out prompts spread over the facts, with both answers."""
    count = len(outcome.questions)
    shown = min(SHOWN_PROMPTS, count)
    panels = []
    for place in (turn * count // shown for turn in range(shown)):
        question = outcome.questions[place]
        body = Table.grid(padding=(0, 2))
        for label, answer in (
            ("base", outcome.answers.base[place]),
            ("tuned", outcome.answers.tuned[place]),
        ):
            right = is_right(question, answer)
            mark = Text("✓", style="green") if right else Text("✗", style="red")
            body.add_row(mark, Text(label, style="dim"), Text(" ".join(answer.split())))
        asked = Text(question.prompt, style="bold")
        panels.append(Panel(Group(asked, body), border_style="dim"))
    return Group(*panels)


def _places(outcome: Outcome) -> list[tuple[str, str]]:
    places = [("model", f"claim {NAMESPACE}/{outcome.claim}, folder {outcome.folder}")]
    if outcome.host_folder:
        places.append(("on this host", str(outcome.host_folder)))
    return [*places, ("metrics", outcome.metrics)]
