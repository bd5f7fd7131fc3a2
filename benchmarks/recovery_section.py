"""The section "Recovery": medians of `recovery`, as Markdown."""

from __future__ import annotations

import argparse
from dataclasses import fields
from statistics import median

from benchmarks.installed import installed, said
from benchmarks.record import Section
from benchmarks.recovery import ColdStart, Recoveries, Recovery

PARTS = {
    "noticed": "death of the pod → its Kubernetes Job or the status says so (goal ≤ 5 s)",
    "ended": "→ the other pods have ended, and the status says what follows",
    "pause": "→ the next Job exists (no pause after a first loss)",
    "containers": "→ rank 0's container runs",
    "ready": "→ model, adapter and optimizer stand, the checkpoint is loaded",
    "step": "→ the first optimizer step is done",
}
COLD_PARTS = {
    "containers": "its Job's creation → rank 0's container runs",
    "ready": "→ model, adapter and optimizer stand",
    "baseline": "→ the untouched model is scored",
    "step": "→ the first optimizer step is done",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=3, help="jobs that lose a pod")


def _measure(options: argparse.Namespace) -> str:
    with installed("finetune-bench") as (cluster, kube, images):
        recoveries = Recoveries(cluster, kube, images)
        # The first one would read the image's files from the disk, as none after it does.
        lives = [
            said("cold start, recovery", recoveries.measure(f"recovery-{run}"))
            for run in range(options.runs + 1)
        ][1:]
    return tables([cold for cold, _ in lives], [back for _, back in lives])


def tables(cold: list[ColdStart], back: list[Recovery]) -> str:
    total, own = median(c.total for c in cold), median(c.own for c in cold)
    again = median(r.total for r in back)
    return f"""
Our images on the local cluster (one node), medians of {len(back)} jobs one after the other, with
warm page cache. The job is the quickstart's, two pods with one rank and at most one CPU each; its
second pod's PID 1 is killed with SIGKILL.

| figure | median | of the cold start (goal ≤ 0.8) |
|---|---|---|
| cold start: the first Job's creation → first step done | {total:.1f} s | |
| the same without the baseline evaluation | {own:.1f} s | |
| death of a pod → next step done | {again:.1f} s | {again / total:.2f}; \
{again / own:.2f} of the start without baseline |

Steps trained again: {", ".join(str(r.lost) for r in back)}.

| part of the recovery | median |
|---|---|
{_rows(PARTS, back)}

| part of the cold start | median |
|---|---|
{_rows(COLD_PARTS, cold)}
"""


def _rows(names: dict[str, str], measured: list[ColdStart] | list[Recovery]) -> str:
    return "\n".join(
        f"| {names[part.name]} | {median(getattr(m, part.name) for m in measured):.2f} s |"
        for part in fields(measured[0])
        if part.name in names
    )


SECTION = Section("Recovery", _measure, _add_options)
