"""The report as one page: no script, nothing loaded from anywhere, every text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 240, 52, 24, 10, 26
"""Of the histogram, in the units of its picture."""


def render_page(facts: dict[str, Any]) -> str:
    """HTML of the facts of ``report_facts``."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["percent"] = percent
    template = environment.from_string(_TEMPLATE.read_text())
    found = [rule for rule in facts["rules"] if rule["dropped"] or rule["reported"]]
    return template.render(
        **facts,
        found=found,
        calm=[rule["rule"] for rule in facts["rules"] if rule not in found],
        fate=_fate(facts),
        histogram=_histogram(facts["lengths"]),
        balance=_balance(facts["sources"]),
    )


def percent(share: float) -> str:
    """A share from 0 to 1 as people write it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _fate(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of the rows of all training sources: parts of one bar."""
    sources = [s for s in facts["sources"] if not s["field"].startswith("spec.data.eval")]
    read = sum(source["rows"] for source in sources)
    dropped: dict[str, int] = {}
    for source in sources:
        for rule, count in source["dropped"].items():
            dropped[rule] = dropped.get(rule, 0) + count
    parts = [
        ("trained on", "kept", sum(source["kept"] for source in sources)),
        ("held out", "held", sum(source["heldOut"] for source in sources)),
        *((rule, f"lost{n % 4}", count) for n, (rule, count) in enumerate(dropped.items())),
    ]
    return [
        {"label": label, "kind": kind, "rows": rows, "share": rows / read}
        for label, kind, rows in parts
        if rows
    ]


def _histogram(lengths: dict[str, Any]) -> dict[str, Any]:
    """Bars and ticks of the length histogram; the horizontal axis is logarithmic."""
    edges = lengths["edges"]
    counts = list(zip(lengths["train"], lengths["heldOut"], strict=True))
    bars, highest = [], max(train + held for train, held in counts)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    step = plot_width / max(1, len(edges) - 1)
    for n, (train, held) in enumerate(counts):
        tall, top = (plot_height * count / highest for count in (train, held))
        bars.append(
            {
                "x": round(_LEFT + n * step + 1.5, 1),
                "width": round(step - 3, 1),
                "train": {"y": round(_TOP + plot_height - tall, 1), "height": round(tall, 1)},
                "held": {"y": round(_TOP + plot_height - tall - top, 1), "height": round(top, 1)},
                "title": f"{edges[n]} to {edges[n + 1] - 1} tokens: "
                f"{train:,} trained on, {held:,} held out",
            }
        )
    every = max(1, len(edges) // 8)
    ticks = [
        {"x": round(_LEFT + n * step, 1), "label": f"{edge:,}"}
        for n, edge in enumerate(edges)
        if n % every == 0
    ]
    levels = [
        {"y": round(_TOP + plot_height * (1 - share), 1), "label": f"{round(highest * share):,}"}
        for share in (0, 0.5, 1)
    ]
    return {
        "width": _WIDTH,
        "right": _WIDTH - _RIGHT,
        "height": _HEIGHT,
        "left": _LEFT,
        "base": _TOP + plot_height,
        "bars": bars,
        "ticks": ticks,
        "levels": levels,
    }


def _balance(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of each training source in rows and in tokens."""
    train = [s for s in sources if not s["field"].startswith("spec.data.eval")]
    rows, tokens = sum(s["kept"] for s in train), sum(s["tokens"] for s in train)
    return [
        {**source, "row_share": source["kept"] / rows, "token_share": source["tokens"] / tokens}
        for source in train
    ]
