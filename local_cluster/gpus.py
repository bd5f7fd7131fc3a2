"""GPUs for the scheduler: an extended resource in the nodes' status, without any device behind it.

Kubelets leave a resource alone that they do not know, but drop it when they register: it has to be
advertised again after each start of a kubelet.
"""

from __future__ import annotations

from local_cluster.api import MERGE_PATCH, Api

GPU = "nvidia.com/gpu"


def advertise_gpus(api: Api, node: str, count: int) -> None:
    """Set a node's `nvidia.com/gpu`; 0 takes the resource away."""
    value = str(count) if count else None
    api.json(
        "PATCH",
        f"/api/v1/nodes/{node}/status",
        {"status": {"capacity": {GPU: value}, "allocatable": {GPU: value}}},
        MERGE_PATCH,
    )
