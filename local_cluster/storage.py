"""Shared volumes: folders of the host as `local` PersistentVolumes that every node has.

They stand in for NFS or CephFS: ReadWriteMany, and the kubelet applies `fsGroup`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from local_cluster.api import MERGE_PATCH, Api
from local_cluster.layout import ClusterPaths

STORAGE_CLASS = "shared"
VOLUMES = 24

# Nominal: a claim of up to this size binds, and the folder can fill the host's disk.
VOLUME_SIZE = "100Gi"

_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": STORAGE_CLASS,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "Immediate",
    "reclaimPolicy": "Retain",
}


def ensure_volumes(api: Api, paths: ClusterPaths) -> None:
    """Create the StorageClass and the volumes with their folders."""
    api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", _CLASS)
    for name in volume_names():
        folder = paths.volumes / name
        folder.mkdir(parents=True, exist_ok=True)
        api.apply(f"/api/v1/persistentvolumes/{name}", volume(name, folder))


def recycle_volumes(api: Api, paths: ClusterPaths) -> list[str]:
    """Empty the volumes whose claim is gone and offer them again; their names.

    `Released` says that no claim and so no pod uses the folder any more.
    """
    recycled = []
    for item in api.json("GET", "/api/v1/persistentvolumes")["items"]:
        name, phase = item["metadata"]["name"], item.get("status", {}).get("phase")
        folder = paths.volumes / name
        if phase != "Released" or name not in volume_names() or not folder.is_dir():
            continue
        shutil.rmtree(folder)
        folder.mkdir()
        # Without its old claim the volume is Available again.
        path = f"/api/v1/persistentvolumes/{name}"
        api.json("PATCH", path, {"spec": {"claimRef": None}}, MERGE_PATCH)
        recycled.append(name)
    return recycled


def volume_names() -> list[str]:
    return [f"shared-{number:02d}" for number in range(1, VOLUMES + 1)]


def volume(name: str, folder: Path) -> dict[str, Any]:
    """A PersistentVolume that is a folder of the host, on every node."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "kubernetes.io/os",
                                    "operator": "In",
                                    "values": ["linux"],
                                }
                            ]
                        }
                    ]
                }
            },
        },
    }
