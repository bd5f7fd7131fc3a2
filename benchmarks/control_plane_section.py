"""The section "Control plane": `control_plane` on a cluster of its own, as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.control_plane import Bench, install_operator, tables
from benchmarks.record import Section
from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries
from local_cluster import images as cluster_images
from tests.e2e.contract_trainer import upload_contract_trainer

CHART = Path(__file__).resolve().parents[1] / "helm" / "finetune-operator"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=500, help="FineTuneJobs at once")
    parser.add_argument("--idle", type=int, default=200, help="idle ones beside one that fails")
    parser.add_argument("--many", type=int, default=2000, help="FineTuneJobs that live")


def _measure(options: argparse.Namespace) -> str:
    cluster = LocalCluster("finetune-bench")
    cluster.prepare(_say)
    cluster.binaries.build(["helm"], _say)
    image = cluster_images.build_operator(print)
    cluster.push(image)
    cluster.up(nodes=1, report=_say)
    try:
        trainer = upload_contract_trainer(cluster.registry)
        install_operator(cluster, cluster_binaries.path("helm"), CHART, image, trainer)
        return tables(Bench(cluster).run(options.jobs, options.many, options.idle))
    finally:
        cluster.down()


def _say(stage: str, detail: str) -> None:
    print(f"{stage}: {detail}", flush=True)


SECTION = Section("Control plane", _measure, _add_options)
