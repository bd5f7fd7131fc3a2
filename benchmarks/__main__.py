"""``python -m benchmarks [--jobs N]``: measure, and write the record ``benchmarks/results.md``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from benchmarks.control_plane import Bench, Figures, install_operator, tables
from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries
from local_cluster import images as cluster_images
from tests.e2e.contract_trainer import upload_contract_trainer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="FineTuneJobs at once")
    parser.add_argument("--many", type=int, default=2000, help="FineTuneJobs that live")
    arguments = parser.parse_args()
    cluster = LocalCluster("finetune-bench")
    cluster.prepare(print_line)
    cluster.binaries.build(["helm"], print_line)
    image = cluster_images.build_operator(print)
    cluster.push(image)
    cluster.up(nodes=1, report=print_line)
    try:
        chart = ROOT / "helm" / "finetune-operator"
        trainer = upload_contract_trainer(cluster.registry)
        install_operator(cluster, cluster_binaries.path("helm"), chart, image, trainer)
        figures = Bench(cluster).run(arguments.jobs, arguments.many)
    finally:
        cluster.down()
    RESULTS.write_text(record(figures))
    print(RESULTS.read_text())


def print_line(stage: str, detail: str) -> None:
    print(f"{stage}: {detail}", flush=True)


def record(figures: Figures) -> str:
    """The benchmark record as Markdown."""
    return f"""# Benchmark record

Written by `make bench ARGS="--jobs {figures.jobs} --many {figures.many}"` on
{time.strftime("%Y-%m-%d")}: {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the
end of the run.

## Control plane
{tables(figures)}"""


if __name__ == "__main__":
    main()
