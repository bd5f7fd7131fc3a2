"""``python -m benchmarks [--jobs N]``: measure, and write the record ``benchmarks/results.md``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from benchmarks.control_plane import IN_FLIGHT, Bench, Figures, install_operator
from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries
from local_cluster import images as cluster_images

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="FineTuneJobs at once")
    arguments = parser.parse_args()
    cluster = LocalCluster("finetune-bench")
    cluster.prepare(print_line)
    cluster.binaries.build(["helm"], print_line)
    image = cluster_images.build_operator(print)
    cluster.push(image)
    cluster.up(nodes=1, report=print_line)
    try:
        chart = ROOT / "helm" / "finetune-operator"
        install_operator(cluster, cluster_binaries.path("helm"), chart, image)
        figures = Bench(cluster).run(arguments.jobs)
    finally:
        cluster.down()
    RESULTS.write_text(record(figures))
    print(RESULTS.read_text())


def print_line(stage: str, detail: str) -> None:
    print(f"{stage}: {detail}", flush=True)


def record(figures: Figures) -> str:
    """The benchmark record as Markdown."""
    writes = ", ".join(f"{name} {count:g}" for name, count in figures.writes_per_job.items())
    total = sum(figures.writes_per_job.values())
    floor = f"floor: one client creates {figures.jobs} Indexed Jobs, {IN_FLIGHT} in flight"
    return f"""# Benchmark record

Written by `make bench ARGS="--jobs {figures.jobs}"` on {time.strftime("%Y-%m-%d")}:
{os.cpu_count()} cores, Kubernetes 1.36.3 (etcd without fsync; controller-manager and scheduler at
200 requests/s, burst 400, 10 concurrent Job syncs), one node, load average {figures.load:.1f} at
the end of the run.

## Control plane

{figures.jobs} FineTuneJobs at once; their prepare pods fit on no node.

| figure | measured |
|---|---|
| {floor} | {figures.floor_seconds:.1f} s |
| first child Job of each FineTuneJob, from the first create | {figures.first_child_seconds:.1f} s |
| ratio to the floor (goal ≤ 8) | {figures.ratio:.1f} × |
| API writes per job up to the waiting prepare pod, without Events | {total:.1f}: {writes} |
| writes in 2 idle minutes with {figures.jobs} jobs (goal 0) | {figures.idle_writes} |
| operator memory | {figures.memory_mb:.0f} MB |
| operator's container start → queue empty, {figures.jobs} jobs | {figures.restart_seconds:.1f} s |
"""


if __name__ == "__main__":
    main()
