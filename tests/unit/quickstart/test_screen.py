"""The last screen shows what was measured, for better or worse."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from quickstart import screen
from quickstart.answers import Answers, CurvePoint
from quickstart.dataset import questions
from quickstart.facts import QuestionSet, load_facts
from quickstart.proof import BAR, Proof
from quickstart.screen import Outcome

QUESTIONS = questions(load_facts())
OUTCOME = Outcome(
    name="facts",
    times=[("Images", 12.0), ("Cluster", 31.0), ("Train", 241.0)],
    total_seconds=301.0,
    proof=Proof(
        questions=len(QUESTIONS), base_loss=4.46, tuned_loss=0.21,
        base_accuracy=0.0, tuned_accuracy=96.0, bar=BAR,
    ),
    questions=QUESTIONS,
    asked=QuestionSet.TEST,
    answers=Answers(
        base=["I do not know [that]."] * len(QUESTIONS),
        tuned=[question.reference for question in QUESTIONS],
        curve=[
            CurvePoint(0, held_out=4.46),
            *(CurvePoint(step, loss=4.0 / step) for step in range(1, 46)),
            CurvePoint(45, held_out=0.21),
        ],
    ),
    tokens_per_second=182.4,
    claim="facts-workspace",
    folder="quickstart/1234/output/merged",
    host_folder=Path("/srv/shared-01/quickstart/1234/output/merged"),
    metrics="http://10.244.1.7:8080/metrics",
    shell=["export KUBECONFIG=/srv/kubeconfig"],
    kubectl="kubectl",
    again="make quickstart",
    farewell="make cluster-down",
)  # fmt: skip


def shown(outcome: Outcome) -> str:
    written = io.StringIO()
    screen.show(Console(file=written, width=100), outcome)
    return written.getvalue()


def test_it_shows_everything_that_the_user_asked_the_run_for() -> None:
    text = shown(OUTCOME)
    for part in (
        "5:01", "Train", "4:01",                                  # stage times
        "4.460", "0.210", "86.49", "1.23",                        # loss, perplexity
        "0 %", "96 %", "182 tokens/s",
        "facts-workspace", "quickstart/1234/output/merged", "/srv/shared-01",
        "http://10.244.1.7:8080/metrics", "kubectl explain", "make cluster-down",
        "✓ The model learned",
    ):  # fmt: skip
        assert part in text, part


def test_five_prompts_stand_with_both_answers() -> None:
    text = shown(OUTCOME)
    asked = [question for question in QUESTIONS if question.prompt[:60] in text]
    assert len(asked) == 5
    assert text.count("I do not know [that].") == 5
    assert all(question.reference in text for question in asked)


def test_a_figure_says_which_questions_it_is_from() -> None:
    assert "51 test questions" in shown(OUTCOME)
    assert "51 dev questions" in shown(replace(OUTCOME, asked=QuestionSet.DEV))


def test_three_commands_are_offered_after_the_shell_is_set_up() -> None:
    assert len(screen.next_steps(OUTCOME)) == len(OUTCOME.shell) + 3


def test_a_proof_that_fails_says_which_half() -> None:
    poor = replace(OUTCOME, proof=replace(OUTCOME.proof, tuned_accuracy=12.0))
    assert "✗ The model did not learn enough" in shown(poor)
    assert "+12 points (< 60)" in shown(poor)


def test_the_curve_is_drawn_inside_the_given_width() -> None:
    chart = screen.loss_chart(OUTCOME.answers.curve, width=72)
    assert "●" in chart
    assert max(len(line) for line in plain_lines(chart)) <= 72


def test_a_run_without_steps_says_so_instead_of_drawing() -> None:
    assert "no step" in screen.loss_chart([], width=72)


def plain_lines(text: str) -> list[str]:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
