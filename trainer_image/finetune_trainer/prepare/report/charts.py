"""Geometry of the page's pictures: histograms as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 240, 64, 24, 14, 30
"""In the units of the picture."""
_TICKS = 8


@dataclass(frozen=True)
class Series:
    """Bars of one kind; those of later series stand on top of the earlier ones'."""

    kind: str
    """Class of its bars in the page."""
    counts: Sequence[int]


def histogram(
    edges: Sequence[str], titles: Sequence[str], series: Sequence[Series]
) -> dict[str, Any]:
    """``edges`` are the labels between bars, one more than there are bars; ``titles`` say what
    each bar tells when it is pointed at."""
    highest = max(1, *(sum(counts) for counts in zip(*(s.counts for s in series), strict=True)))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    step = plot_width / max(1, len(titles))
    bars = []
    for n, title in enumerate(titles):
        level, parts = _TOP + plot_height, []
        for each in series:
            tall = plot_height * each.counts[n] / highest
            level -= tall
            parts.append({"kind": each.kind, "y": round(level, 1), "height": round(tall, 1)})
        x, width = round(_LEFT + n * step + 1.5, 1), round(step - 3, 1)
        bars.append({"x": x, "width": width, "parts": parts, "title": title})
    every = max(1, len(edges) // _TICKS)
    return {
        "width": _WIDTH,
        "right": _WIDTH - _RIGHT,
        "height": _HEIGHT,
        "left": _LEFT,
        "base": _TOP + plot_height,
        "bars": bars,
        "ticks": [
            {"x": round(_LEFT + n * step, 1), "label": edge}
            for n, edge in enumerate(edges)
            if n % every == 0
        ],
        "levels": [
            {
                "y": round(_TOP + plot_height * (1 - share), 1),
                "label": f"{highest * share:,.0f}" if share else "",
            }
            for share in (0, 0.5, 1)
        ],
    }
