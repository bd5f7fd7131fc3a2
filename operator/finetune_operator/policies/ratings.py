"""Ratings of people, as they come back in a ConfigMap: a stranger's text, until it is judged here.

A file is what the page for raters saves::

    {"bundle": "sha256:…", "rater": "Ann", "ratings": {"1": "A", "2": "Tie", "3": "BothBad"}}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..api.human import MAX_ITEMS, MAX_RATERS
from .agreement import krippendorff_alpha

MAX_BYTES = 1 << 20
"""As the API server bounds a ConfigMap."""
MAX_FILE_BYTES = 1 << 16
"""Four times what 1000 ratings take."""
MAX_NAME = 64
MARKS = {"A": "a", "B": "b", "Tie": "=", "BothBad": "x"}
"""What a rater can say, and the letter that is kept of it."""
UNRATED = " "
TOLD = 3
"""Faults that a sentence names."""
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class Sheet:
    """The ratings of one person."""

    file: str
    """Key in the ConfigMap."""
    rater: str
    bundle: str
    """Digest of the bundle that was rated."""
    marks: str
    """A letter for each item, from the first on."""

    @property
    def count(self) -> int:
        return len(self.marks) - self.marks.count(UNRATED)


@dataclass(frozen=True)
class Ratings:
    """A ConfigMap with ratings, read."""

    sheets: tuple[Sheet, ...] = ()
    faults: tuple[str, ...] = ()
    """What is wrong with it by itself."""


@dataclass(frozen=True)
class Tally:
    """What the raters say together."""

    raters: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    agreement: float | None

    @property
    def ratings(self) -> int:
        return self.wins + self.losses + self.ties + self.both_bad

    @property
    def win_rate(self) -> float | None:
        """Ties count as half, and so does both bad, as in Chatbot Arena (Chiang et al., 2024)."""
        if not self.ratings:
            return None
        return (self.wins + (self.ties + self.both_bad) / 2) / self.ratings


class _FaultError(Exception):
    pass


def read_ratings(data: Mapping[str, str]) -> Ratings:
    """The data of a ConfigMap; a file that cannot be read becomes a fault."""
    size = sum(len(text) for text in data.values())
    if not data:
        return Ratings(faults=("it is empty: put the files that the raters saved into it",))
    if size > MAX_BYTES:
        return Ratings(faults=(f"it holds {size} bytes, and may hold {MAX_BYTES}",))
    if len(data) > MAX_RATERS:
        return Ratings(faults=(f"it has {len(data)} keys, and may have {MAX_RATERS}",))
    sheets, faults = [], []
    for file, text in sorted(data.items()):
        try:
            sheets.append(_read_file(file, text))
        except _FaultError as fault:
            faults.append(f"key {file}: {fault}")
    return Ratings(tuple(sheets), tuple(faults))


def find_fault(ratings: Ratings, bundle: str, items: int) -> str | None:
    """Why the ratings cannot count for this bundle, in one sentence; None: they do."""
    faults = [*ratings.faults, *_misfits(ratings, bundle, items)]
    if not faults:
        return None
    more = f"; and {len(faults) - TOLD} more like that" if len(faults) > TOLD else ""
    return "; ".join(faults[:TOLD]) + more


def tally(ratings: Ratings, tuned_first: frozenset[int], items: int) -> Tally:
    """Undo the blinding and count. ``tuned_first``: items whose answer A is the tuned model's."""
    units: list[list[str]] = [[] for _ in range(items)]
    for sheet in ratings.sheets:
        for at, mark in enumerate(sheet.marks):
            if mark != UNRATED:
                units[at].append(_meant(mark, at + 1 in tuned_first))
    votes = Counter(vote for unit in units for vote in unit)
    return Tally(
        raters=sum(sheet.count > 0 for sheet in ratings.sheets),
        wins=votes["tuned"],
        losses=votes["base"],
        ties=votes["="],
        both_bad=votes["x"],
        agreement=krippendorff_alpha(units),
    )


def _meant(mark: str, tuned_is_a: bool) -> str:
    if mark in ("a", "b"):
        return "tuned" if (mark == "a") == tuned_is_a else "base"
    return mark


def _read_file(file: str, text: str) -> Sheet:
    if len(text) > MAX_FILE_BYTES:
        raise _FaultError(f"it is {len(text)} bytes long, and may be {MAX_FILE_BYTES}")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _FaultError("it is no JSON: use the file that the page saved") from None
    if not isinstance(content, dict) or content.keys() != {"bundle", "rater", "ratings"}:
        raise _FaultError(
            "it has to be an object with bundle, rater and ratings: use the file that the page "
            "saved"
        )
    bundle, rater, ratings = content["bundle"], content["rater"], content["ratings"]
    if not isinstance(bundle, str) or not isinstance(ratings, dict):
        raise _FaultError("bundle has to be a string and ratings an object")
    if not _is_name(rater):
        raise _FaultError(f"rater has to be a name of at most {MAX_NAME} characters")
    return Sheet(file, " ".join(rater.split()), bundle[:128], _marks(ratings))


def _marks(ratings: Mapping[str, Any]) -> str:
    marks: dict[int, str] = {}
    for name, value in ratings.items():
        if not _NUMBER.fullmatch(name) or int(name) > MAX_ITEMS:
            raise _FaultError(f"item {_quoted(name)} is not in the bundle")
        if not isinstance(value, str) or value not in MARKS:
            raise _FaultError(
                f"item {name} is rated {_quoted(value)}, which is none of {', '.join(MARKS)}"
            )
        marks[int(name)] = MARKS[value]
    return "".join(marks.get(number, UNRATED) for number in range(1, max(marks, default=0) + 1))


def _misfits(ratings: Ratings, bundle: str, items: int) -> Iterator[str]:
    by_name: dict[str, str] = {}
    for sheet in ratings.sheets:
        if sheet.bundle != bundle:
            yield (
                f"key {sheet.file}: it rates another bundle ({_quoted(sheet.bundle[:19])}) than "
                f"this job's ({bundle[:19]})"
            )
        elif len(sheet.marks) > items:
            yield f"key {sheet.file}: item {len(sheet.marks)} is not in the bundle of {items} items"
        if other := by_name.get(sheet.rater.casefold()):
            yield (
                f"keys {other} and {sheet.file} are both by {_quoted(sheet.rater)}: keep one of "
                "them, or tell two people apart by their names"
            )
        by_name[sheet.rater.casefold()] = sheet.file


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise _FaultError(f"{_quoted(twice)} stands in it twice")
    return content


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_NAME and value.isprintable()


def _quoted(value: Any) -> str:
    """A stranger's word, short and without surprises."""
    return ascii(value if isinstance(value, str) else type(value).__name__)[:40]
