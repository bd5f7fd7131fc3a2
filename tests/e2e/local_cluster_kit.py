"""kubectl and small manifests for the tests of the local cluster itself."""

from __future__ import annotations

import socket
from typing import Any

from e2e.kubectl import Kubectl

from local_cluster.oci import BUSYBOX_IMAGE


def wait_pod(kube: Kubectl, name: str) -> None:
    kube("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def pod(name: str, script: str, *, node: str = "", **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell script; `container` entries of spec go to its container."""
    container = spec.pop("container", {})
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script],
                 **container}
            ],
            **spec,
        },
    }  # fmt: skip


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


WEB = "mkdir -p /tmp/www && echo {word} > /tmp/www/index.html && httpd -f -p 8080 -h /tmp/www"


RESTRICTED = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
RESTRICTED_CONTAINER = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
}


def reaches(kube: Kubectl, source: str, address: str) -> bool:
    answer = kube.run("exec", source, "--", "timeout", "2", "wget", "-qO-", f"http://{address}/")
    return "served" in answer.stdout


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ready(kube: Kubectl, node: str) -> str:
    conditions = kube.json("get", "node", node)["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready")
