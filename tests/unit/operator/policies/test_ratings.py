"""Ratings as they come back: counted by hand, and every way in which they can be wrong."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from finetune_operator.api.blinding import tuned_first
from finetune_operator.policies.agreement import krippendorff_alpha
from finetune_operator.policies.ratings import (
    MAX_BYTES,
    MAX_FILE_BYTES,
    find_fault,
    read_ratings,
    tally,
)

BUNDLE = "sha256:" + "ab" * 32
ITEMS = 4
FIRST = frozenset({1, 3})
"""Items whose answer A is the tuned model's."""


def file(rater: str = "Ann", bundle: str = BUNDLE, **ratings: str) -> str:
    """``_1="A"``: item 1."""
    marks = {name.removeprefix("_"): mark for name, mark in ratings.items()}
    return json.dumps({"bundle": bundle, "rater": rater, "ratings": marks})


def fault(**files: str) -> str | None:
    data = {name.replace("_", "."): text for name, text in files.items()}
    return find_fault(read_ratings(data), BUNDLE, ITEMS)


def test_the_blinding_is_undone_and_every_vote_counts_once() -> None:
    ann = file("Ann", _1="A", _2="A", _3="B", _4="Tie")  # win, loss, loss, tie
    ben = file("Ben", _1="A", _2="B", _4="BothBad")  # win, win, both bad
    votes = tally(read_ratings({"ann": ann, "ben": ben}), FIRST, ITEMS)
    assert (votes.wins, votes.losses, votes.ties, votes.both_bad) == (3, 2, 1, 1)
    assert (votes.ratings, votes.raters) == (7, 2)
    assert votes.win_rate == pytest.approx(4 / 7)
    alone = tally(read_ratings({"ann": file("Ann", _2="A")}), FIRST, ITEMS)
    assert (alone.wins, alone.losses) == (0, 1), "the tuned model's answer to item 2 is B"
    # Two values each for items 1, 2 and 4: they agree on one of them.
    assert votes.agreement == pytest.approx(1 - 5 * 4 / (36 - (9 + 1 + 1 + 1)))


def test_without_ratings_there_is_no_rate() -> None:
    votes = tally(read_ratings({"ann": file()}), FIRST, ITEMS)
    assert (votes.ratings, votes.raters, votes.win_rate, votes.agreement) == (0, 0, None, None)


def test_alpha_of_the_example_in_its_source() -> None:
    """Four observers, twelve units, missing data; Krippendorff (2011), section C: 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[at] for row in observers if row[at] != "."] for at in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=0.0005)


@pytest.mark.parametrize(
    ("units", "alpha"),
    [
        (["aa", "bb"], 1.0),
        (["ab", "ba"], 1 - 3 * 4 / 8),
        (["a", "b", ""], None),
        (["aa", "aa"], None),
        ([], None),
    ],
)
def test_alpha_at_its_bounds(units: list[str], alpha: float | None) -> None:
    assert krippendorff_alpha(units) == alpha


GOOD = file(_1="A", _4="Tie")
DEEP = '{"bundle": ' + "[" * 30_000


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a_json": GOOD}, None),
        ({}, "it is empty: put the files that the raters saved into it"),
        ({"a_json": ""}, "key a.json: it is no JSON: use the file that the page saved"),
        ({"a_json": "\x00\ud800"}, "it is no JSON"),
        ({"a_json": DEEP}, "it is no JSON"),
        ({"a_json": "9" * 5000}, "it is no JSON"),
        ({"a_json": "[]"}, "it has to be an object with bundle, rater and ratings"),
        ({"a_json": json.dumps({"rater": "Ann", "ratings": {}})}, "it has to be an object"),
        ({"a_json": json.dumps({**json.loads(GOOD), "win": 1})}, "it has to be an object"),
        ({"a_json": json.dumps({**json.loads(GOOD), "ratings": [1]})}, "ratings an object"),
        ({"a_json": file("")}, "rater has to be a name of at most 64 characters"),
        ({"a_json": file("x" * 65)}, "rater has to be a name"),
        ({"a_json": file("a\nb")}, "rater has to be a name"),
        ({"a_json": file("\ud800")}, "rater has to be a name"),
        ({"a_json": file(bundle="sha256:" + "cd" * 32, _1="A")},
         "it rates another bundle ('sha256:cdcdcdcdcdcd') than this job's (sha256:abababababab)"),
        ({"a_json": file(_5="A")}, "key a.json: item 5 is not in the bundle of 4 items"),
        ({"a_json": file(_0="A")}, "item '0' is not in the bundle"),
        ({"a_json": file(_01="A")}, "item '01' is not in the bundle"),
        ({"a_json": file(_1001="A")}, "item '1001' is not in the bundle"),
        ({"a_json": file(__proto__="A")}, "is not in the bundle"),
        ({"a_json": file(_1="tuned")}, "item 1 is rated 'tuned', which is none of A, B, Tie"),
        ({"a_json": GOOD.replace('"A"', "1")}, "item 1 is rated 'int', which is none of"),
        ({"a_json": GOOD.replace('{"1"', '{"1": "B", "1"')}, "'1' stands in it twice"),
        ({"a_json": GOOD[:-1] + ', "rater": "Ben"}'}, "'rater' stands in it twice"),
        ({"a_json": GOOD, "b_json": file("aNN", _2="A")},
         "keys a.json and b.json are both by 'aNN': keep one of them, or tell"),
        ({"a_json": GOOD, "README": "ratings of May"}, "key README: it is no JSON"),
        ({"a_json": GOOD + " " * MAX_FILE_BYTES}, f"bytes long, and may be {MAX_FILE_BYTES}"),
        ({f"k{n}": GOOD for n in range(65)}, "it has 65 keys, and may have 64"),
        ({"a_json": "x" * 2 * MAX_BYTES}, f"it holds {2 * MAX_BYTES} bytes, and may hold"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence(files: dict[str, str], says: str | None) -> None:
    found = fault(**files)
    if says is None:
        assert found is None
        return
    assert found is not None and says in found
    assert len(found) < 400 and found.isprintable()


def test_many_faults_are_counted_and_three_are_told() -> None:
    found = fault(**{f"k{n}": "no" for n in range(9)})
    assert found is not None
    assert found.count("it is no JSON") == 3 and found.endswith("; and 6 more like that")


def test_the_largest_config_map_is_read_in_no_time() -> None:
    marks = {str(number): "BothBad" for number in range(1, 1001)}
    content: dict[str, Any] = {"bundle": BUNDLE, "ratings": marks}
    data = {f"k{n}": json.dumps({**content, "rater": f"r{n}"}) for n in range(50)}
    began = time.process_time()
    ratings = read_ratings(data)
    votes = tally(ratings, tuned_first("uid", 1, 1000), 1000)
    assert find_fault(ratings, BUNDLE, 1000) is None
    assert (votes.ratings, votes.both_bad) == (50_000, 50_000)
    assert time.process_time() - began < 1.0
