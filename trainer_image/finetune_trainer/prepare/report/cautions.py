"""What somebody should look at before a GPU is held, in plain sentences, the gravest first.

They stand on top of the page and, the first few, in ``status.data.warnings``; so they quote nothing
of the texts, but values of columns that the job names. None of them stops the job: bounds that do
are ``spec.data.expect``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Facts = dict[str, Any]

DOMINANT = 0.8
_MISSING = 0.2
_CUT = 0.05
_LEARNT = 0.05
_SAME_BEGINNING = 0.25
_CLUSTER = 0.05
_UNLIKE = 0.1
_TIMES = 4.0
_COMMON = 0.01
_FEW_STEPS = 10
_REPEATED = 4.0
"""Times that an epoch draws a row: so often repeats teach little new, even in pre-training
(Muennighoff et al. 2023)."""
_MIN_ROWS = 50
"""Shares of fewer rows say little."""
_MAX_CHARS = 160


def cautions(facts: Facts) -> list[str]:
    """``facts`` are those of the report."""
    return [sentence[:_MAX_CHARS] for rule in _RULES for sentence in rule(facts)]


def _leaked(facts: Facts) -> Iterator[str]:
    leaked, held = facts["volume"]["heldOutRowsInTrain"], facts["volume"]["heldOut"]
    if leaked and held:
        yield f"{leaked:,} of {held:,} held-out rows stand in the training rows, too"


def _leaked_general(facts: Facts) -> Iterator[str]:
    volume = facts["volume"]
    if leaked := volume["generalRowsInTrain"]:
        yield f"{leaked:,} of {volume['general']:,} general rows stand in the training rows, too"


def _balance(facts: Facts) -> Iterator[str]:
    for part in facts["balance"]:
        if part["rows"] < _MIN_ROWS or part["kind"] in ("length", "language"):
            continue
        if part["missing"] > _MISSING * part["rows"]:
            yield f"{_share(part['missing'], part['rows'])} of the rows have no {part['name']}"
        top = max(part["values"], key=lambda value: value["rows"], default=None)
        if top and part["distinct"] > 1 and top["rows"] >= DOMINANT * part["rows"]:
            share = _share(top["rows"], part["rows"])
            if part["kind"] == "source":
                yield f"{share} of the rows come from one source, {top['value']}"
            else:
                yield f"{share} of the rows have one {part['name']}, {_short(top['value'])}"


def _weights(facts: Facts) -> Iterator[str]:
    for source in facts["sources"]:
        if source.get("drawn") == 0:
            yield f"the weight of {source['name']} is so low that none of its rows is drawn"
        elif source.get("epochs", 0) >= _REPEATED:
            times = f"{source['epochs']:.3g}"
            yield f"an epoch draws each row of {source['name']} {times} times, by its weight"


def _terms(facts: Facts) -> Iterator[str]:
    rows = facts["volume"]["inEpoch"]
    for found in facts["terms"]:
        terms = sorted(found["terms"], key=lambda term: term["rows"])
        if not found["rows"]:
            yield f"no row has a term of the list {found['name']}"
        elif len(terms) > 1 and terms[-1]["rows"] >= max(_MIN_ROWS, _COMMON * rows):
            least, most = terms[0], terms[-1]
            if most["rows"] >= _TIMES * least["rows"]:
                yield (
                    f"{found['name']}: {_short(most['term'])} is in {most['rows']:,} rows, "
                    f"{_short(least['term'])} in {least['rows'] or 'none'}"
                )


def _diversity(facts: Facts) -> Iterator[str]:
    found = facts["diversity"]
    rows, kept = found["answers"]["rows"], facts["volume"]["kept"]
    beginnings = found["answers"]["beginnings"]
    if rows >= _MIN_ROWS and beginnings and beginnings[0]["rows"] > _SAME_BEGINNING * rows:
        yield f"{_share(beginnings[0]['rows'], rows)} of the answers begin with the same words"
    largest = found["nearDuplicates"]["largest"]
    if kept >= _MIN_ROWS and largest > _CLUSTER * kept and not _dropped(facts):
        yield f"{largest:,} rows are almost the same ({_share(largest, kept)} of all)"


def _dropped(facts: Facts) -> bool:
    return any(r["rule"] == "nearDuplicates" and r["policy"] == "Drop" for r in facts["rules"])


def _coverage(facts: Facts) -> Iterator[str]:
    found = facts["diversity"]["coverage"]
    if found and found["unlike"] > _UNLIKE * found["prompts"]:
        yield (
            f"{found['unlike']:,} of {found['prompts']:,} held-out prompts resemble nothing that "
            "is trained on"
        )


def _cut(facts: Facts) -> Iterator[str]:
    cut, kept = facts["volume"]["truncated"], facts["volume"]["kept"]
    if cut > _CUT * kept:
        length = facts["packing"]["sequenceLength"]
        yield f"{_share(cut, kept)} of the rows lose their end at {length:,} tokens"


def _volume(facts: Facts) -> Iterator[str]:
    learnt, tokens = facts["volume"]["supervisedTokens"], facts["volume"]["tokens"]
    if learnt < _LEARNT * tokens:
        yield f"only {_share(learnt, tokens)} of the tokens are learnt; the others are only read"
    if facts["plan"]["steps"] < _FEW_STEPS:
        steps = facts["plan"]["steps"]
        yield f"training has only {steps} optimizer step{'s' * (steps > 1)}"


_RULES: tuple[Callable[[Facts], Iterator[str]], ...] = (
    _leaked,
    _leaked_general,
    _cut,
    _weights,
    _balance,
    _terms,
    _coverage,
    _diversity,
    _volume,
)


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 else "less than 1 %"


def _short(text: str) -> str:
    return repr(text if len(text) <= 38 else f"{text[:36]}…")
