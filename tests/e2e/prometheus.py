"""A real Prometheus (Debian's) on this host, scraping the cluster's pods.

Debian builds it without Kubernetes discovery, so a thread writes the targets that the chart's
monitors would select, with the same labels, into a file that Prometheus watches.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from local_cluster.debian import debian_binary

SCRAPE_SECONDS = 2
MONITORED = {
    "finetune.dev/stage=train": 9400,
    "app.kubernetes.io/name=finetune-operator": 9402,
}
"""Port by label selector, as in the chart's PodMonitor and ServiceMonitor."""


class Prometheus:
    """Queries by PromQL."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector of ``expression``: labels and value of each series."""
        arguments = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{arguments}") as answer:
            content = json.load(answer)
        assert content["status"] == "success", content
        result = content["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def targets(list_pods: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Running pods with their ports and labels; ``list_pods`` takes a label selector."""
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port}"],
            "labels": {
                "namespace": pod["metadata"]["namespace"],
                "pod": pod["metadata"]["name"],
                "finetunejob": pod["metadata"]["labels"].get("finetune.dev/job", ""),
            },
        }
        for selector, port in MONITORED.items()
        for pod in list_pods(selector)["items"]
        if pod["status"].get("podIP")
    ]


@contextmanager
def running_prometheus(list_pods: Callable[[str], Any], folder: Path) -> Iterator[Prometheus]:
    """Prometheus with its data in ``folder``, until the end of the block."""
    program = debian_binary("prometheus", "usr/bin/prometheus")
    scrape = {
        "job_name": "finetune",
        "honor_labels": True,
        "file_sd_configs": [{"files": [str(folder / "targets.json")]}],
    }
    config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(SCRAPE_SECONDS):
            temporary = folder / "targets.tmp"
            temporary.write_text(json.dumps(targets(list_pods)))
            temporary.rename(folder / "targets.json")

    follower = threading.Thread(target=follow, daemon=True)
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                str(program),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        follower.start()
        try:
            yield Prometheus(address)
        finally:
            stop.set()
            follower.join(10)
            process.terminate()
            process.wait(30)
