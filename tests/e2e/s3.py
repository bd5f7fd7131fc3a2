"""A real S3 server in the cluster: versitygw over a folder of a claim, built from its Go module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.kubectl import Kubectl, wait_for
from s3_server import ACCESS, SECRET, build_server

from local_cluster import LocalCluster
from local_cluster.oci import upload_image

NAME = "s3"
FOLDER = "s3"
PORT = 7070


def start_s3(
    cluster: LocalCluster, kubectl: Kubectl, namespace: str, claim: str, files: Path
) -> str:
    """The address for pods; ``files`` is the claim on this host. Secret `s3-key` opens it.

    Buckets are the folders of ``files / "s3"``, objects their files.
    """
    program = build_server()
    image = f"localhost:5000/versitygw:{program.parent.name.rpartition('-')[2]}"
    upload_image(cluster.registry, image, {"bin/versitygw": program.read_bytes()}, user="1000")
    root = files / FOLDER
    root.mkdir()
    root.chmod(0o777)
    for manifest in (_secret(), _service(), _pod(image, claim)):
        kubectl.apply(manifest, namespace=namespace)

    def ready() -> bool:
        pod = kubectl.json("get", "pod", NAME, namespace=namespace)
        return any(c["status"] == "True" for c in pod["status"].get("conditions", ())
                   if c["type"] == "Ready")  # fmt: skip

    wait_for("the S3 server", ready, 60)
    return f"http://{NAME}.{namespace}:{PORT}"


def _secret() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3-key"},
        "stringData": {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET},
    }


def _service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
    }


def _from_secret(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "s3-key", "key": key}}}


def _pod(image: str, claim: str) -> dict[str, Any]:
    closed = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": NAME,
                "image": image,
                "command": ["/bin/versitygw", "--port", f":{PORT}", "posix", "/data"],
                "env": [_from_secret("ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
                        _from_secret("ROOT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY")],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "securityContext": closed,
                "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": FOLDER}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }  # fmt: skip
