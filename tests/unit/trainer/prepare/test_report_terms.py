"""Terms that the job asks for: what counts as one, and what is told of it."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.config import TermList
from finetune_trainer.prepare.report.balance import Values
from finetune_trainer.prepare.report.rows import Text
from finetune_trainer.prepare.report.terms import Finder, as_plain, count_terms


@pytest.mark.parametrize(
    ("term", "text", "count"),
    [
        ("he", "He said that she and the others hear he.", 2),
        ("New York", "new\n york, NEW YORK and New Yorkers", 2),
        ("Straße", "In der STRASSE und in der Straße", 2),
        ("café", "cafe\u0301", 1),
        ("彼女", "昨日彼女は来た", 1),
        ("c++", "C++, c+++ and c", 2),
        ("a.b", "a.b axb", 1),
        ("naïve", "naive", 0),
    ],
)
def test_terms_are_whole_words_without_regard_to_case_and_form(
    term: str, text: str, count: int
) -> None:
    assert Finder([term]).count(as_plain(text))[0] == count


def test_the_longer_of_two_terms_is_meant() -> None:
    found = Finder(["man", "old man"]).count(as_plain("an old man, a man"))
    assert (found[0], found[1]) == (1, 1)


def test_terms_that_are_the_same_but_for_case_are_one() -> None:
    finder = Finder(["She", "she", "SHE"])
    assert finder.count("she")[0] == 1
    assert finder.terms == ("She",)


def test_rates_tell_what_is_learnt_and_with_which_value_it_goes_together() -> None:
    texts = [
        Text(0, "is he there? he?", "he is"),
        Text(1, "is he there?", "no"),
        Text(2, "", "she is"),
        Text(3, "nobody", "is"),
    ]
    label = Values("label", ["yes", "no", "yes", None])
    many = Values("id", [str(n) for n in range(100)])
    lists = [TermList(name="who", words=("he", "she")), TermList(name="none", words=("zebra",))]
    who, none = count_terms(lists, texts, [label, many])
    assert who["rows"] == 3
    assert who["terms"] == [
        {"term": "he", "rows": 2, "rowsLearnt": 1, "occurrences": 4, "occurrencesLearnt": 1},
        {"term": "she", "rows": 1, "rowsLearnt": 1, "occurrences": 1, "occurrencesLearnt": 1},
    ]
    (table,) = who["byColumn"]
    assert table == {
        "column": "label",
        "values": ["yes", "no"],
        "all": [2, 1],
        "rows": [[1, 1], [1, 0]],
    }
    assert none["rows"] == 0
    assert none["terms"][0]["occurrences"] == 0
    assert isinstance(label.codes, np.ndarray)
