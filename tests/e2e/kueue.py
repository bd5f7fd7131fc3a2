"""A real Kueue in the cluster: its own chart, the manager built from its Go module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from e2e.kubectl import Kubectl, wait_for
from e2e.release import helm

from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries
from local_cluster.oci import upload_image

NAMESPACE = "kueue-system"
RELEASE = "kueue"
REPOSITORY = "localhost:5000/kueue"


@contextmanager
def running_kueue(cluster: LocalCluster, kubectl: Kubectl) -> Iterator[None]:
    """Installed, its webhooks answering; gone afterwards with all that it brought."""
    cluster.binaries.build(["kueue"], lambda stage, detail: print(f"[{stage}] {detail}"))
    program = cluster_binaries.path("kueue")
    tag = program.parent.name.rpartition("-")[2]
    program_alone = {"manager": program.read_bytes()}
    upload_image(cluster.registry, f"{REPOSITORY}:{tag}", program_alone, user="65532")
    try:
        helm(
            kubectl, NAMESPACE, "upgrade", "--install", RELEASE, str(program.parent / "chart"),
            "--create-namespace", "--set-string",
            f"controllerManager.manager.image.repository={REPOSITORY},"
            f"controllerManager.manager.image.tag={tag}",
            "--wait", "--timeout", "300s",
        )  # fmt: skip
        # Ready comes before the webhooks' certificates have reached the API server.
        wait_for("kueue takes objects", lambda: _applies(kubectl, flavor()), 60)
        yield
    finally:  # its webhooks would go on refusing everybody's Deployments
        # While it still takes its finalizers off: else the CRDs never go.
        for kind in ("workloads", "localqueues", "clusterqueues", "resourceflavors"):
            kubectl.run("delete", f"{kind}.kueue.x-k8s.io", "--all", "-A", "--timeout=60s")
        helm(kubectl, NAMESPACE, "uninstall", RELEASE, "--ignore-not-found", "--wait")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _applies(kubectl: Kubectl, manifest: dict[str, Any]) -> bool:
    return kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump(manifest)).returncode == 0


def flavor() -> dict[str, Any]:
    return _kueue("ResourceFlavor", "any", {})


def cluster_queue(name: str, gpus: int) -> dict[str, Any]:
    """So many GPUs, no end of everything else; higher priority evicts lower."""
    amounts = {"nvidia.com/gpu": gpus, "cpu": 1000, "memory": "1Ti"}
    quotas = [{"name": resource, "nominalQuota": amount} for resource, amount in amounts.items()]
    return _kueue(
        "ClusterQueue",
        name,
        {
            "namespaceSelector": {},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [
                {
                    "coveredResources": list(amounts),
                    "flavors": [{"name": "any", "resources": quotas}],
                }
            ],
        },
    )


def local_queue(name: str, cluster_queue_name: str) -> dict[str, Any]:
    return _kueue("LocalQueue", name, {"clusterQueue": cluster_queue_name})


def priority_class(name: str, value: int) -> dict[str, Any]:
    manifest = _kueue("WorkloadPriorityClass", name, {})
    del manifest["spec"]
    return {**manifest, "value": value}


def _kueue(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
