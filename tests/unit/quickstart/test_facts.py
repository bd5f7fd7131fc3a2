"""The example's data: honest questions, checkable answers, and true facts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_operator.api import failures, types
from finetune_trainer import config
from quickstart import images, release
from quickstart.dataset import (
    DATA,
    EVAL_FILE,
    TRAIN_FILE,
    eval_rows,
    jsonl,
    questions,
    shortened,
    shuffled_answers,
    train_rows,
)
from quickstart.facts import Fact, QuestionSet, load_facts
from quickstart.manifests import SHORT_FACTS
from quickstart.options import Options
from quickstart.proof import contains_key

BOOK = load_facts()
FACTS = {fact.id: fact for fact in BOOK.facts}
each_fact = pytest.mark.parametrize("fact", BOOK.facts, ids=lambda fact: fact.id)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def common(one: str, other: str) -> float:
    """Share of common words among all words of both."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


def wordings(fact: Fact) -> list[str]:
    return [*fact.ask, *fact.held_out.values()]


def test_there_are_enough_facts_and_wordings() -> None:
    assert len(FACTS) == len(BOOK.facts) >= 48
    assert all(16 <= len(fact.ask) <= 18 for fact in BOOK.facts)


@each_fact
def test_the_reference_answer_contains_the_key_fact(fact: Fact) -> None:
    assert contains_key(fact.key, fact.answer)


@each_fact
def test_no_question_gives_the_key_fact_away(fact: Fact) -> None:
    assert [text for text in wordings(fact) if contains_key(fact.key, text)] == []


@each_fact
def test_no_other_facts_answer_passes_for_this_one(fact: Fact) -> None:
    others = [other for other in BOOK.facts if other.id != fact.id]
    assert [other.id for other in others if contains_key(fact.key, other.answer)] == []


def test_no_held_out_question_is_trained_on() -> None:
    trained = {frozenset(words(text)) for fact in BOOK.facts for text in fact.ask}
    held_out = [text for fact in BOOK.facts for text in fact.held_out.values()]
    assert [text for text in held_out if frozenset(words(text)) in trained] == []


@each_fact
def test_a_dev_question_uses_other_words_than_any_training_wording(fact: Fact) -> None:
    dev = fact.held_out[QuestionSet.DEV]
    assert max(common(dev, asked) for asked in fact.ask) <= 0.7


@each_fact
def test_a_test_question_is_no_near_copy_of_any_wording_seen_before(fact: Fact) -> None:
    seen = [text for f in BOOK.facts for text in (*f.ask, f.held_out[QuestionSet.DEV])]
    assert [text for text in seen if common(fact.held_out[QuestionSet.TEST], text) > 0.4] == []


def test_no_question_is_asked_of_two_facts() -> None:
    asked = [text for fact in BOOK.facts for text in wordings(fact)]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("asked", QuestionSet)
def test_a_book_evaluates_on_the_questions_that_it_asks(asked: QuestionSet) -> None:
    book = replace(BOOK, asked=asked)
    assert [q.prompt for q in questions(book)] == [f.held_out[asked] for f in BOOK.facts]
    assert [row["messages"][1]["content"] for row in eval_rows(book)] == [
        question.prompt for question in questions(book)
    ]


def test_a_run_s_options_choose_the_questions_and_how_many() -> None:
    book = images.held_out(Options(questions=QuestionSet.DEV, short=True))
    assert (book.asked, len(book.facts)) == (QuestionSet.DEV, SHORT_FACTS)


def test_training_sees_neither_set_whichever_is_asked() -> None:
    dev = replace(BOOK, asked=QuestionSet.DEV)
    assert train_rows(dev) == train_rows(BOOK)
    trained = {row["messages"][1]["content"] for row in train_rows(BOOK)}
    assert trained == {text for fact in BOOK.facts for text in fact.ask}


def test_the_committed_files_are_those_of_the_facts() -> None:
    assert (DATA / TRAIN_FILE).read_text() == jsonl(train_rows(BOOK))
    assert (DATA / EVAL_FILE).read_text() == jsonl(eval_rows(BOOK))


def test_every_row_is_a_chat_that_ends_with_the_answer() -> None:
    for row in (*train_rows(BOOK), *eval_rows(BOOK)):
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert all(message["content"].strip() for message in row["messages"])


def test_the_control_trains_every_fact_with_another_facts_answer() -> None:
    control = shuffled_answers(BOOK)
    assert sorted(f.answer for f in control.facts) == sorted(f.answer for f in BOOK.facts)
    assert [f.id for f in control.facts if contains_key(f.key, f.answer)] == []
    assert [f.ask for f in control.facts] == [f.ask for f in BOOK.facts]


def test_the_short_form_has_distinct_facts_and_its_control_is_no_less_wrong() -> None:
    short = shortened(BOOK, SHORT_FACTS)
    assert len({fact.id for fact in short.facts}) == SHORT_FACTS
    assert not any(contains_key(f.key, f.answer) for f in shuffled_answers(short).facts)


def test_shortening_to_nothing_or_to_more_than_there_is_is_refused() -> None:
    for count in (0, len(BOOK.facts) + 1):
        with pytest.raises(ValueError, match="facts, not"):
            shortened(BOOK, count)


EXIT_CODES = {
    "exit-data": "BadData",
    "exit-oom": "CudaOom",
    "exit-nonfinite": "NonFinite",
    "exit-disk": "DiskFull",
    "exit-preempted": "Preempted",
    "exit-rendezvous": "Rendezvous",
}


@pytest.mark.parametrize(("fact", "failure"), EXIT_CODES.items())
def test_exit_codes_are_those_of_the_failure_table(fact: str, failure: str) -> None:
    assert FACTS[fact].key == f"code {failures.BY_NAME[failure].exit_code}"


@pytest.mark.parametrize(
    ("fact", "truth"),
    [
        ("api-group", types.GROUP),
        ("api-version", types.VERSION),
        ("short-name", types.SHORT_NAME),
        ("export-phase", types.Phase.EXPORTING.value),
        ("metrics-port", str(config.METRICS_PORT)),
        ("run-json", str(config.RUN_JSON)),
        ("workspace", str(config.WORKSPACE)),
        ("default-seed", str(types.Training.model_fields["seed"].default)),
        ("default-packing", types.Data.model_fields["packing"].default.value),
        ("default-overlong", types.Data.model_fields["overlong"].default.value),
        ("default-loss-on", types.Data.model_fields["loss_on"].default.value),
        ("default-schedule", types.Schedule.model_fields["type"].default.value),
        ("system-namespace", release.SYSTEM_NAMESPACE),
    ],
)
def test_what_the_model_learns_is_what_the_code_says(fact: str, truth: str) -> None:
    assert FACTS[fact].key == truth


def test_the_fields_that_facts_name_exist() -> None:
    fields = {field.alias for field in types.FineTuneJobSpec.model_fields.values()}
    assert {FACTS["start-deadline"].key, FACTS["pause-field"].key} <= fields


def test_facts_about_files_agree_with_the_contract() -> None:
    contract = (Path(__file__).parents[3] / "docs" / "contracts.md").read_text()
    named = ("metrics-file", "parent-file", "result-file", "attempt-variable", "index-variable",
             "merged-folder", "model-mount", "token-mount", "progress-size")  # fmt: skip
    assert [name for name in named if FACTS[name].key not in contract] == []
