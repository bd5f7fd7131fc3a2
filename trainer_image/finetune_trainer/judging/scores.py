"""What answers are worth, beside their references.

BLEU and chrF are sacrebleu's, so that they can be compared with what others report; their
signatures say how they were computed. ROUGE-L is our own: the usual package knows ASCII letters
only, and throws away what is written in other ones. Patterns come from users, so they have a time
limit, which ``re`` cannot give them.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import regex  # type: ignore[import-untyped]

from finetune_trainer.errors import ConfigInvalid

REGEX_SECONDS = 10.0
"""For all answers of a job together; a pattern that takes longer is not scored."""

NAMES = {
    "BLEU": "bleu",
    "ChrF": "chrF",
    "RougeL": "rougeL",
    "ExactMatch": "exactMatch",
    "Regex": "regexMatch",
    "JSONValid": "jsonValid",
}
"""Metrics as a job asks for them, and as their scores are called. BLEU and chrF go from 0 to 100,
as sacrebleu has them, the others from 0 to 1."""

_SIGNS = r"\p{Han}\p{Hiragana}\p{Katakana}"
"""Written without spaces between words."""
_WORD = regex.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Of all answers together, and of each."""

    values: dict[str, float]
    signatures: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    """By answer; BLEU is no score of a single sentence."""


def score(
    metrics: Sequence[str], answers: Sequence[str], references: Sequence[str], pattern: str | None
) -> Scores:
    """The scores that a job asks for. One that cannot be had is left out, with a warning.

    There must be an answer for each reference, and at least one.
    """
    values: dict[str, float] = {}
    signatures: dict[str, str] = {}
    rows: list[dict[str, float]] = [{} for _ in answers]
    pairs = list(zip(answers, references, strict=True))
    for metric in metrics:
        name = NAMES[metric]
        if metric in ("BLEU", "ChrF"):
            values[name], signatures[name], each = _sacrebleu(metric, answers, references)
        elif metric == "Regex":
            each = matches(pattern or "", answers)
        else:
            one = _BY_ROW[metric]
            each = [one(answer, reference) for answer, reference in pairs]
        if each:
            values.setdefault(name, math.fsum(each) / len(each))
        for row, value in zip(rows, each, strict=False):
            row[name] = value
    return Scores(values, signatures, rows)


def _sacrebleu(
    metric: str, answers: Sequence[str], references: Sequence[str]
) -> tuple[float, str, list[float]]:
    from sacrebleu.metrics.bleu import BLEU  # a third of a second of import
    from sacrebleu.metrics.chrf import CHRF

    if metric == "BLEU":
        bleu = BLEU(force=True)  # no warning about text that looks tokenized
        total = bleu.corpus_score(answers, [references]).score
        return total, str(bleu.get_signature()), []
    chrf = CHRF()
    total = chrf.corpus_score(answers, [references]).score
    rows = [
        chrf.sentence_score(answer, [reference]).score
        for answer, reference in zip(answers, references, strict=True)
    ]
    return total, str(chrf.get_signature()), rows


def exact_match(answer: str, reference: str) -> float:
    """1 where they are equal but for white space at the ends."""
    return float(answer.strip() == reference.strip())


def json_valid(answer: str, _reference: str = "") -> float:
    """1 where the whole answer is JSON as RFC 8259 has it: no NaN, no text around it."""
    try:
        json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, ROUGE-L with beta 1).

    Words are compared without case; each Han or kana character is a word.
    """
    mine, theirs = words(answer), words(reference)
    common = longest_common_subsequence(mine, theirs)
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0


def words(text: str) -> list[str]:
    found: list[str] = _WORD.findall(text.casefold())
    return found


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by the bit-parallel algorithm of Hyyrö (2004): one big integer is a row of the
    table, so that thousands of words take milliseconds."""
    places: Counter[str] = Counter()
    for at, word in enumerate(first):
        places[word] |= 1 << at
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        met = row & places[word]
        row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()


def matches(pattern: str, answers: Sequence[str], seconds: float = REGEX_SECONDS) -> list[float]:
    """1 for each answer in which the pattern is found; empty where that takes too long."""
    wanted = compiled(pattern)
    deadline = time.monotonic() + seconds
    found = []
    for answer in answers:
        try:
            hit = wanted.search(answer, timeout=max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            log.warning(
                "spec.evaluation.generation.regex takes more than %.0f s, so there is no score of "
                "it: repeated choices such as (a|aa)+ may be the reason",
                seconds,
            )
            return []
        found.append(float(hit is not None))
    return found


def compiled(pattern: str) -> regex.Pattern[str]:
    """Raises ``ConfigInvalid``."""
    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ConfigInvalid(
            f"spec.evaluation.generation.regex: is no regular expression: {error}"
        ) from error


_BY_ROW: dict[str, Callable[[str, str], float]] = {
    "RougeL": rouge_l,
    "ExactMatch": exact_match,
    "JSONValid": json_valid,
}
