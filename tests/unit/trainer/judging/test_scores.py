"""Scores against the libraries' own examples, and against what can be reckoned by hand."""

from __future__ import annotations

import itertools
import math
import time

import pytest

from finetune_trainer.config import Generation
from finetune_trainer.judging.scores import (
    NAMES,
    json_valid,
    longest_common_subsequence,
    matches,
    rouge_l,
    score,
    words,
)

ALL = tuple(NAMES)


def test_bleu_by_hand() -> None:
    """6 words against 6: 5/6, 3/5, 2/4, 1/3 of the n-grams met, and no brevity penalty."""
    found = score(["BLEU"], ["the cat sat on the mat"], ["the cat sat on a mat"], None)
    by_hand = 100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4)
    assert found.values["bleu"] == pytest.approx(by_hand)
    assert found.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert found.rows == [{}]


def test_bleu_is_of_the_whole_corpus_and_not_a_mean() -> None:
    """17 words in three sentences, as in sacrebleu's own example with its first references:
    n-grams that are met are added up over all of them before any ratio is taken."""
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    together = score(["BLEU"], answers, references, None).values["bleu"]
    alone = [
        score(["BLEU"], [one], [other], None).values["bleu"]
        for one, other in zip(answers, references, strict=True)
    ]
    met, tried = (6 + 2 + 4, 5 + 0 + 1, 4 + 0 + 0, 3 + 0 + 0), (6 + 4 + 7, 5 + 3 + 6, 4 + 2 + 5, 8)
    by_hand = math.exp(sum(math.log(a / b) for a, b in zip(met, tried, strict=True)) / 4)
    assert together == pytest.approx(100 * by_hand)
    assert abs(together - sum(alone) / 3) > 1


def test_chrf_by_hand() -> None:
    """Characters of `abcd` and `abce`: 3/4, 2/3, 1/2, 0/1 n-grams of 1 to 4 met on both sides;
    chrF2 is their mean, for precision and recall are alike; longer n-grams do not occur."""
    found = score(["ChrF"], ["abcd"], ["abce"], None)
    assert found.values["chrF"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    assert found.rows == [{"chrF": found.values["chrF"]}]


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [  # the first two from rouge-score's README and tests
        ("the quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog",
         2 * 0.625 * (5 / 9) / (0.625 + 5 / 9)),
        ("testing two", "testing one two", 0.8),
        ("", "something", 0.0),
        ("something", "", 0.0),
        ("", "", 0.0),
        ("Straße naïve", "STRASSE naïve", 1.0),
        ("你好世界", "你好", 2 * 2 / (4 + 2)),
        ("a b c", "c b a", 2 / 6),
    ],
)  # fmt: skip
def test_rouge_l(answer: str, reference: str, f1: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(f1)


def test_words_of_any_script_count() -> None:
    assert words("Don't  panic: naïve Ünïcödé, 東京タワーは333m!") == [
        "don", "t", "panic", "naïve", "ünïcödé", "東", "京", "タ", "ワ", "ー", "は", "333m",
    ]  # fmt: skip


def test_the_longest_common_subsequence_is_exact() -> None:
    """Against the table that everybody knows, over all pairs of short sequences."""

    def table(first: str, second: str) -> int:
        row = [0] * (len(second) + 1)
        for a in first:
            before = row[:]
            for n, b in enumerate(second, 1):
                row[n] = before[n - 1] + 1 if a == b else max(before[n], row[n - 1])
        return row[-1]

    texts = ["".join(t) for size in range(5) for t in itertools.product("abc", repeat=size)]
    for first in texts:
        for second in texts[::7]:
            assert longest_common_subsequence(first, second) == table(first, second)


def test_thousands_of_words_take_milliseconds() -> None:
    long = " ".join(str(n % 97) for n in range(8000))
    began = time.monotonic()
    assert rouge_l(long, long) == 1.0
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"a": [1, null, "x"]}', 1.0), (" 12 ", 1.0), ('"text"', 1.0), ("", 0.0), ("text", 0.0),
        ("```json\n{}\n```", 0.0), ("{'a': 1}", 0.0), ("NaN", 0.0), ("[1, Infinity]", 0.0),
        ("[" * 100_000, 0.0), ("{} {}", 0.0),
    ],
)  # fmt: skip
def test_json(answer: str, valid: float) -> None:
    assert json_valid(answer) == valid


def test_all_scores_together_with_one_row_each() -> None:
    answers, references = ["yes", "no ", '{"a": 1}'], ["yes", "no", "or else"]
    found = score(ALL, answers, references, "^(yes|no)")
    assert found.values["exactMatch"] == pytest.approx(2 / 3)
    assert found.values["regexMatch"] == pytest.approx(2 / 3)
    assert found.values["jsonValid"] == pytest.approx(1 / 3)
    assert found.values["rougeL"] == pytest.approx(2 / 3)
    assert found.values.keys() == set(NAMES.values())
    assert found.signatures.keys() == {"bleu", "chrF"}
    assert found.rows[2] == {
        "chrF": 0.0, "rougeL": 0.0, "exactMatch": 0.0, "regexMatch": 0.0, "jsonValid": 1.0,
    }  # fmt: skip


def test_empty_answers_score_nothing_and_break_nothing() -> None:
    found = score(ALL[:4], ["", ""], ["a b c d", "e"], None)
    assert set(found.values.values()) == {0.0}


def test_a_pattern_that_takes_for_ever_is_not_scored(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    assert matches("(a|aa)+$", ["aa"] + ["a" * 60 + "b"] * 50, seconds=0.5) == []
    assert time.monotonic() - began < 5
    assert "spec.evaluation.generation.regex" in caplog.text


def test_a_score_that_cannot_be_had_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.judging.scores.matches", lambda *_: [])
    found = score(["Regex", "ExactMatch"], ["a"], ["a"], "a")
    assert found.values == {"exactMatch": 1.0} and found.rows == [{"exactMatch": 1.0}]


def test_every_metric_of_a_job_has_a_name() -> None:
    wish = Generation.model_validate({"metrics": list(ALL)})
    assert wish.metrics == ALL
