"""kube-proxy: one for the whole namespace, since all nodes share it."""

from __future__ import annotations

import json

from local_cluster.binaries import Binaries
from local_cluster.control_plane import ControlPlane
from local_cluster.layout import ClusterPaths, write_private
from local_cluster.processes import ProcessTable
from local_cluster.subnets import Subnet


def start_proxy(
    paths: ClusterPaths,
    subnet: Subnet,
    plane: ControlPlane,
    processes: ProcessTable,
    binaries: Binaries,
    netns: str,
) -> None:
    """Start kube-proxy with nftables rules (upstream's own ClusterRole serves the user name)."""
    config = write_private(
        paths.etc / "proxy.json",
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "bindAddress": subnet.control_plane,
                "healthzBindAddress": "127.0.0.1:10256",
                "metricsBindAddress": "127.0.0.1:10249",
                "clusterCIDR": subnet.pods,
                "clientConnection": {
                    "kubeconfig": plane.component("kube-proxy", "system:kube-proxy")
                },
                # The host's connection table is not ours to size.
                "conntrack": {"maxPerCore": 0, "min": 0},
                "nftables": {"minSyncPeriod": "0.1s"},
            }
        ),
    )
    processes.start(
        "kube-proxy",
        [
            binaries.path("kube-proxy"),
            f"--config={config}",
            f"--hostname-override={paths.name}-n1",
        ],
        netns=netns,
    )
