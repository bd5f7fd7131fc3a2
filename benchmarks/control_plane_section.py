"""The section "Control plane": `control_plane` on a cluster of its own, as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.control_plane import IN_FLIGHT, Bench, Figures, install_operator
from benchmarks.record import Section
from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries
from local_cluster import images as cluster_images

CHART = Path(__file__).resolve().parents[1] / "helm" / "finetune-operator"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=500, help="FineTuneJobs at once")


def _measure(options: argparse.Namespace) -> str:
    cluster = LocalCluster("finetune-bench")
    cluster.prepare(_say)
    cluster.binaries.build(["helm"], _say)
    image = cluster_images.build_operator(print)
    cluster.push(image)
    cluster.up(nodes=1, report=_say)
    try:
        install_operator(cluster, cluster_binaries.path("helm"), CHART, image)
        return _tables(Bench(cluster).run(options.jobs))
    finally:
        cluster.down()


def _say(stage: str, detail: str) -> None:
    print(f"{stage}: {detail}", flush=True)


def _tables(figures: Figures) -> str:
    writes = ", ".join(f"{name} {count:g}" for name, count in figures.writes_per_job.items())
    total = sum(figures.writes_per_job.values())
    floor = f"floor: one client creates {figures.jobs} Indexed Jobs, {IN_FLIGHT} in flight"
    return f"""
One node, Kubernetes 1.36.3 (etcd without fsync; controller-manager and scheduler at
200 requests/s, burst 400, 10 concurrent Job syncs). {figures.jobs} FineTuneJobs at once; their
prepare pods fit on no node.

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


SECTION = Section("Control plane", _measure, _add_options)
