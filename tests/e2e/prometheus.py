"""A real Prometheus (Debian's) on this host, scraping the cluster's pods.

Debian builds it without Kubernetes discovery, so a thread writes what discovery would find into a
file that Prometheus watches: the pods that the chart's monitors select, a target for each port,
with the labels of discovery. The monitors' own relabelings then apply.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local_cluster.debian import debian_binary

SCRAPE_SECONDS = 2
PORT_NAME = "__meta_kubernetes_pod_container_port_name"


@dataclass(frozen=True)
class Monitor:
    """What a PodMonitor or ServiceMonitor of the chart asks for."""

    name: str
    selector: str
    """Label selector of the pods."""
    relabelings: list[dict[str, Any]]
    """In the words of Prometheus's own configuration."""


def monitors(manifests: list[dict[str, Any]]) -> list[Monitor]:
    """The monitors among the chart's rendered manifests."""
    found = []
    for manifest in manifests:
        if manifest["kind"] not in ("PodMonitor", "ServiceMonitor"):
            continue
        spec = manifest["spec"]
        [endpoint] = spec.get("podMetricsEndpoints") or spec["endpoints"]
        labels = spec["selector"]["matchLabels"].items()
        relabelings = [_snake_case(rule) for rule in endpoint.get("relabelings", ())]
        if port := endpoint.get("port"):
            relabelings.insert(0, {"source_labels": [PORT_NAME], "action": "keep", "regex": port})
        selector = ",".join(f"{name}={value}" for name, value in labels)
        found.append(Monitor(manifest["kind"], selector, relabelings))
    return found


def _snake_case(rule: dict[str, Any]) -> dict[str, Any]:
    return {re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name): rule[name] for name in rule}


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


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A target for each port of each pod, labelled as Kubernetes discovery does."""
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                # The Prometheus Operator adds these two to every target.
                "namespace": pod["metadata"]["namespace"],
                "pod": pod["metadata"]["name"],
                PORT_NAME: port["name"],
                **{
                    "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name): value
                    for name, value in pod["metadata"]["labels"].items()
                },
            },
        }
        for pod in pods
        if pod["status"].get("podIP")
        for port in pod["spec"]["containers"][0]["ports"]
    ]


@contextmanager
def running_prometheus(
    list_pods: Callable[[str], Any], asked_for: list[Monitor], folder: Path
) -> Iterator[Prometheus]:
    """Prometheus with its data in ``folder``, until the end of the block.

    ``list_pods`` takes a label selector and returns the running pods.
    """
    program = debian_binary("prometheus", "usr/bin/prometheus")
    scrapes = [
        {
            "job_name": monitor.name,
            "honor_labels": True,
            "file_sd_configs": [{"files": [str(folder / f"{monitor.name}.json")]}],
            "relabel_configs": monitor.relabelings,
        }
        for monitor in asked_for
    ]
    config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": scrapes}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(SCRAPE_SECONDS):
            for monitor in asked_for:
                try:
                    pods = list_pods(monitor.selector)["items"]
                except AssertionError:  # some tests take the API server away for a while
                    continue
                temporary = folder / "targets.tmp"
                temporary.write_text(json.dumps(targets(pods)))
                temporary.rename(folder / f"{monitor.name}.json")

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
