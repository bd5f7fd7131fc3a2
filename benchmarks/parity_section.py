"""The section "Parity": how far training under ZeRO is from plain torch, over the whole matrix."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.record import Section

ROOT = Path(__file__).resolve().parents[1]
CELLS = "tests/parity/test_parity.py"
FIGURES = ("losses", "gradients", "weights")


def _measure(_: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        report = Path(folder) / "report.xml"
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", CELLS, "--matrix", "-q", f"--junitxml={report}"],
            cwd=ROOT,
        )
        if ran.returncode:
            raise RuntimeError(f"{CELLS} failed: see its output above")
        return table(report.read_text())


def table(report: str) -> str:
    """The worst cell of each ZeRO stage, from pytest's report in JUnit's format."""
    worst: defaultdict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0.0))
    cells: defaultdict[str, int] = defaultdict(int)
    for case in ElementTree.fromstring(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        stage = re.search(r"\[zero(\d)-", case.get("name", ""))
        found = {p.get("name"): p.get("value", "") for p in case.iter("property")}
        if stage and found:
            cells[stage[1]] += 1
            for name in FIGURES:
                worst[stage[1]][name] = max(worst[stage[1]][name], float(found[name]))
    rows = [
        f"| {stage} | {cells[stage]} | "
        + " | ".join(f"{worst[stage][name]:.1e}" for name in FIGURES)
        + " |"
        for stage in sorted(cells)
    ]
    return f"""
ZeRO stage × LoRA and full × accumulation 1 and 4 × 1, 2 and 3 ranks × SGD and AdamW: {
        sum(cells.values())
    } cells
of ten steps each, against plain torch on one process with the same samples. The worst cell of each
stage: loss of any step and rank, relative (bound 1e-6); first gradient and final weights, norm of
the difference by norm (bounds 1e-6; 1e-5 with AdamW, with SGD 1e-6 for each weight).

| ZeRO stage | cells | losses | first gradient | final weights |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


SECTION = Section("Parity", _measure)
