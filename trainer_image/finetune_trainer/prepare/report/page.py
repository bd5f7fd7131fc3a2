"""The report as one page: no script, nothing loaded from anywhere, every text escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from finetune_trainer.prepare.report.charts import Series, histogram

_FOLDER = Path(__file__).parent
_TITLES = {"length": "Length in tokens"}
_DEVIATIONS = 3.0
"""Standard deviations of a random draw from which a term's share of a value is coloured."""
_STRONG = 4.0
"""Times the usual share, or a fourth of it: the strongest colour."""


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": percent,
        "short": short,
        "duration": duration,
    }
    return environment.get_template("page.html.j2")


def render_page(facts: dict[str, Any]) -> str:
    """HTML of the facts of ``report_facts``."""
    found = [rule for rule in facts["rules"] if rule["dropped"] or rule["reported"]]
    return _template().render(
        **facts,
        found=found,
        calm=[rule["rule"] for rule in facts["rules"] if rule not in found],
        fate=_fate(facts),
        histogram=_lengths(facts["lengths"]),
        shares=_shares(facts["sources"]),
        weighted=any("drawn" in source for source in facts["sources"]),
        parts=[_part(part) for part in facts["balance"] if part["kind"] != "source"],
        likeness=_likeness(facts["diversity"]["coverage"]),
        lists=[_list(terms, facts["volume"]["inEpoch"]) for terms in facts["terms"]],
    )


def percent(share: float) -> str:
    """A share from 0 to 1 as people write it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def short(number: float) -> str:
    """A large number with three digits: 1.23 M."""
    for power, name in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {name}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them, rounded."""
    if seconds < 60:
        return "under a minute"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _fate(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of the rows of all training sources: parts of one bar."""
    sources = [s for s in facts["sources"] if s["field"].startswith("spec.data.train")]
    read = sum(source["rows"] for source in sources)
    dropped: dict[str, int] = {}
    for source in sources:
        for rule, count in source["dropped"].items():
            dropped[rule] = dropped.get(rule, 0) + count
    parts = [
        ("trained on", "kept", sum(source["kept"] for source in sources)),
        ("held out", "held", sum(source["heldOut"] for source in sources)),
        ("not drawn", "spare", sum(source.get("notDrawn", 0) for source in sources)),
        *((rule, f"lost{n % 4}", count) for n, (rule, count) in enumerate(dropped.items())),
    ]
    return [
        {"label": label, "kind": kind, "rows": rows, "share": rows / read}
        for label, kind, rows in parts
        if rows
    ]


def _lengths(lengths: dict[str, Any]) -> dict[str, Any]:
    """The length histogram; its horizontal axis is logarithmic."""
    edges, train, held = lengths["edges"], lengths["train"], lengths["heldOut"]
    titles = [
        f"{edges[n]} to {edges[n + 1] - 1} tokens: {train[n]:,} trained on, {held[n]:,} held out"
        for n in range(len(train))
    ]
    series = [Series("train", train), Series("eval", held)]
    return histogram([f"{edge:,}" for edge in edges], titles, series)


def _likeness(coverage: dict[str, Any] | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    counts = coverage["histogram"]
    edges = [n / len(counts) for n in range(len(counts) + 1)]
    titles = [
        f"{edges[n]:.1f} to {edges[n + 1]:.1f}: {count:,} prompts" for n, count in enumerate(counts)
    ]
    return histogram([f"{edge:.1f}" for edge in edges], titles, [Series("eval", counts)])


def _shares(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of each training source in the rows and in the tokens of an epoch."""
    train = [s for s in sources if s["field"].startswith("spec.data.train")]
    drawn = [source.get("drawn", source["kept"]) for source in train]
    tokens = sum(source["tokens"] for source in train)
    return [
        {**source, "row_share": rows / sum(drawn), "token_share": source["tokens"] / tokens}
        for source, rows in zip(train, drawn, strict=True)
    ]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """One picture of the balance: a bar for each value, and what is not shown as the last ones."""
    values = list(part["values"])
    further = part["distinct"] - len(values)
    if part["further"]["rows"]:
        name = f"{further:,} further values" if not part.get("capped") else "further values"
        values.append({"value": name, "rest": True, **part["further"]})
    if part["missing"]:
        word = "not told" if part["kind"] == "language" else "missing"
        missing = {"rows": part["missing"], "supervisedTokens": None}
        values.append({"value": word, "rest": True, **missing})
    learnt = sum(value["supervisedTokens"] or 0 for value in values)
    bars = [
        {
            "value": value["value"],
            "rest": value.get("rest", False),
            "rows": value["rows"],
            "share": value["rows"] / max(1, part["rows"]),
            "learnt": None
            if value["supervisedTokens"] is None
            else value["supervisedTokens"] / max(1, learnt),
        }
        for value in values
    ]
    title = _TITLES.get(part["kind"], part["name"])
    return {**part, "title": title, "bars": bars}


def _list(terms: dict[str, Any], rows: int) -> dict[str, Any]:
    """The bars of one list of terms, and its tables by column."""
    most = max((term["rows"] for term in terms["terms"]), default=0)
    bars = [
        {
            **term,
            "share": term["rows"] / rows,
            "learnt_share": term["occurrencesLearnt"] / max(1, term["occurrences"]),
            "learnt": term["rowsLearnt"] / max(1, most),
            "read": (term["rows"] - term["rowsLearnt"]) / max(1, most),
        }
        for term in terms["terms"]
    ]
    tables = [_table(table, terms["terms"]) for table in terms["byColumn"]]
    return {**terms, "bars": bars, "tables": tables}


def _table(table: dict[str, Any], terms: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows with a term, the share of each value, and how far that is from the usual."""
    counted = max(1, sum(table["all"]))
    usual = [count / counted for count in table["all"]]
    lines = []
    for term, counts in zip(terms, table["rows"], strict=True):
        total = sum(counts)
        if total:
            cells = [_cell(count, share, total) for count, share in zip(counts, usual, strict=True)]
            lines.append({"term": term["term"], "rows": total, "cells": cells})
    return {**table, "usual": usual, "lines": lines}


def _cell(count: int, usual: float, rows: int) -> dict[str, Any]:
    """``count`` of ``rows`` have a value that the share ``usual`` of all rows has."""
    expected = usual * rows
    away = abs(count - expected) / max(1e-9, (expected * (1 - usual)) ** 0.5)
    ratio = max(count, 0.5) / max(expected, 0.5)
    strength = min(1.0, (max(ratio, 1 / ratio) - 1) / (_STRONG - 1))
    return {
        "share": count / rows,
        "kind": "" if away < _DEVIATIONS else "more" if ratio > 1 else "less",
        "strength": round(15 + 45 * strength),
    }
