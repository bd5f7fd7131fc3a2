"""The measure: whole-word key facts, and both halves of the bar."""

from __future__ import annotations

import pytest

from quickstart.dataset import Question
from quickstart.proof import BAR, Proof, accuracy, contains_key


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("75", "It ends with exit code 75.", True),
        ("75", "It ends with exit code 175.", False),
        ("75", "It ends with exit code 750.", False),
        ("ftj", "The short name is FTJ!", True),
        ("ftj", "kubectl get ftjs", False),
        ("64 KiB", "at most 64\n  kib", True),
        ("-p0", "the Job facts-p0 prepares", True),
        ("-p0", "the Job facts-p01 prepares", False),
        ("job://", "use job://first-stage", True),
        ("/workspace", "mounted at /workspace.", True),
        ("1.35", "Kubernetes 1.35 or newer", True),
        ("1.35", "Kubernetes 1.355", False),
    ],
)
def test_a_key_is_found_as_a_whole_word_whatever_the_case(key: str, text: str, found: bool) -> None:
    assert contains_key(key, text) is found


def question(key: str) -> Question:
    return Question(prompt="?", key=key, reference=key)


def test_accuracy_is_the_share_of_right_answers_in_per_cent() -> None:
    asked = [question("9400"), question("ftj"), question("kopf"), question("75")]
    assert accuracy(asked, ["port 9400", "it is ftj", "operator sdk", "64"]) == 50.0


def test_answers_that_do_not_match_the_questions_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2 questions, but 1 answers"):
        accuracy([question("a"), question("b")], ["a"])


@pytest.mark.parametrize(
    ("tuned_loss", "tuned_accuracy", "holds"),
    [
        (0.8 * 4.0, 62.0, True),
        (0.81 * 4.0, 62.0, False),
        (0.1, 61.9, False),
        (4.5, 100.0, False),
    ],
)
def test_the_proof_needs_both_the_loss_and_the_key_facts(
    tuned_loss: float, tuned_accuracy: float, holds: bool
) -> None:
    proof = Proof(
        questions=50, base_loss=4.0, tuned_loss=tuned_loss,
        base_accuracy=2.0, tuned_accuracy=tuned_accuracy, bar=BAR,
    )  # fmt: skip
    assert proof.holds is holds
